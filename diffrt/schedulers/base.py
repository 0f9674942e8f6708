"""What every scheduler is: a frozen record of diffusers' config keys that can build a grid and a table.

A scheduler class declares its keys as annotated fields with diffusers' defaults, and three functions:
`grid` (which noise levels), `build` (the formula, run on unit vectors) and `marginal` (the forward process).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real
from types import MappingProxyType, NoneType
from typing import Any, ClassVar, Literal, Self, get_args, get_origin

import numpy as np

from diffrt.errors import InvalidArgument, nearest
from diffrt.schedulers.grid import RESPACINGS, Grid, alphas_cumprod
from diffrt.schedulers.stepping import Stepper
from diffrt.schedulers.table import Table

# Every config key of diffusers' continuous schedulers, and two of 2022's: harmless to a class that lacks them, so
# that a config saved by one scheduler loads into another.
KNOWN_KEYS = frozenset(
    """
    algorithm_type base_image_seq_len base_shift beta_end beta_max beta_min beta_schedule beta_start clip_denoised
    clip_sample clip_sample_range correct_steps corrector_order disable_corrector dynamic_thresholding_ratio eta
    euler_at_final final_sigmas_type flow_shift interpolation_type invert_sigmas lambda_min_clipped lower_order_final
    max_image_seq_len max_shift noise_sampler_seed num_train_timesteps original_inference_steps predict_x0
    prediction_type predictor_order rescale_betas_zero_snr rho s s_noise sample_max_value sampling_eps scale_factors
    scaler set_alpha_to_one shift shift_terminal sigma_data sigma_max sigma_min sigma_schedule skip_prk_steps snr
    snr_shift_scale solver_order solver_p solver_type steps_offset stochastic_sampling tau_func thresholding
    time_shift_type timestep_scaling timestep_spacing timestep_type trained_betas upscale_mode use_beta_sigmas
    use_dynamic_shifting use_exponential_sigmas use_flow_sigmas use_karras_sigmas use_lu_lambdas variance_type
    tensor_format timestep_values
    """.split()
)

# Inclusive limits of numeric keys, wherever they occur.
LIMITS = {
    "num_train_timesteps": (1, math.inf),
    "steps_offset": (0, math.inf),
    "clip_sample_range": (1e-6, math.inf),
    "dynamic_thresholding_ratio": (0, 1),
    "sample_max_value": (1e-6, math.inf),
    "sigma_min": (1e-10, math.inf),
    "sigma_max": (1e-10, math.inf),
}

Spacing = Literal["linspace", "leading", "trailing"]


@dataclass(frozen=True, kw_only=True)
class Scheduler(ABC):
    """Abstract. Equality and hash are those of the fields. Raises InvalidArgument for a config that cannot work."""

    num_train_timesteps: int = 1000

    takes_eta: ClassVar[bool] = False
    # {key: {another class's value: what it means here}}
    aliases: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    # Per instance; called ClassVar so that dataclass makes no fields of them.
    _given: ClassVar[frozenset[str]]
    _carried: ClassVar[dict[str, Any]]

    def __new__(cls, **given: Any) -> Self:
        # As in diffusers, a key left at its default here is the next class's own default after a switch of classes,
        # so which keys were given is part of a config.
        self = super().__new__(cls)
        object.__setattr__(self, "_given", frozenset(given))
        object.__setattr__(self, "_carried", {})
        return self

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, (list, np.ndarray)):
                value = tuple(np.asarray(value).tolist())
            elif isinstance(value, str):
                value = self.aliases.get(f.name, {}).get(value, value)
            object.__setattr__(self, f.name, value)
            if not _allows(f.type, value):
                raise InvalidArgument(f"{type(self).__name__}: {f.name} = {value!r}, allowed: {_allowed(f.type)}")
        for message in (*_common_problems(self), *self.problems()):
            raise InvalidArgument(f"{type(self).__name__}: {message}")

    def problems(self) -> Iterable[str]:
        """Why this combination of keys cannot work, one line each."""
        return ()

    @abstractmethod
    def grid(self, num_inference_steps: int) -> Grid:
        """The noise levels of a run. Any run of consecutive steps of a grid may be built: image-to-image slices it."""

    @abstractmethod
    def build(self, grid: Grid, eta: float = 0.0) -> Table:
        """The method's formula over a grid."""

    @abstractmethod
    def marginal(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(alpha, sigma) of x = alpha x0 + sigma eps at training times t. [B] f64 -> [B] f64, [B] f64"""

    # --- using one -----------------------------------------------------------------------------------------------

    def table(self, num_inference_steps: int, *, eta: float = 0.0) -> Table:
        """The sampler as numbers. eta (0 to 1) is DDIM's share of fresh noise; other schedulers take only 0."""
        return self.build(*self._checked(num_inference_steps, eta))

    def stepper(self, num_inference_steps: int, *, eta: float = 0.0) -> Stepper:
        """The same sampler behind diffusers' stepping interface."""
        grid, eta = self._checked(num_inference_steps, eta)
        return Stepper(self.build(grid, eta), grid)

    def _checked(self, n: int, eta: float) -> tuple[Grid, float]:
        if not _allows(int, n) or not 1 <= n <= self.num_train_timesteps:
            raise InvalidArgument(
                f"num_inference_steps = {n!r}, allowed: a whole number from 1 to {self.num_train_timesteps} "
                "(num_train_timesteps)"
            )
        if not _allows(float, eta) or not 0 <= eta <= self.takes_eta:
            limit = "a number from 0 to 1" if self.takes_eta else f"only 0: {type(self).__name__} has no eta, DDIM has"
            raise InvalidArgument(f"eta = {eta!r}, allowed: {limit}")
        return self.grid(int(n)), eta

    def add_noise(self, original: np.ndarray, noise: np.ndarray, timestep: Any) -> np.ndarray:
        """alpha_t * original + sigma_t * noise. [B, ...], [B, ...], scalar or [B] -> [B, ...], dtype of original."""
        t = np.atleast_1d(np.asarray(timestep, np.float64))
        if t.shape not in ((1,), (len(original),)) or not np.all((t >= 0) & (t <= self.num_train_timesteps - 1)):
            raise InvalidArgument(
                f"timestep = {timestep!r}, allowed: one number or {len(original)} of them, "
                f"from 0 to {self.num_train_timesteps - 1}"
            )
        alpha, sigma = (c.astype(original.dtype).reshape(-1, *[1] * (original.ndim - 1)) for c in self.marginal(t))
        return alpha * original + sigma * noise

    # --- config --------------------------------------------------------------------------------------------------

    @property
    def config(self) -> Mapping[str, Any]:
        """The fields as a read-only mapping, with _class_name; also the keys it was loaded with and does not use,
        so that a switch of classes and back loses nothing (Stable Diffusion's PNDM config carries clip_sample)."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        defaulted = [name for name in own if name not in self._given]
        return MappingProxyType(
            {"_class_name": type(self).__name__, **own, **self._carried, "_use_default_values": defaulted}
        )

    @property
    def ignored(self) -> tuple[str, ...]:
        """The known keys it was loaded with and does not use."""
        return tuple(self._carried)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """From a scheduler_config.json or another scheduler's .config. Keys of other schedulers are ignored and
        reported in .ignored, keys beginning with "_" are skipped, any other key is InvalidArgument."""
        if not isinstance(config, Mapping):
            raise InvalidArgument(f"a scheduler config is a mapping of keys to values, got {type(config).__name__}")
        defaulted = config.get("_use_default_values", ())
        given = {k: v for k, v in config.items() if not k.startswith("_") and k not in defaulted}
        names = [f.name for f in fields(cls)]
        for key in given:
            if key not in KNOWN_KEYS and key not in names:
                raise InvalidArgument(f"{cls.__name__} has no key {key!r}: {nearest(key, names)}")
        self = cls(**{k: v for k, v in given.items() if k in names})
        self._carried.update((k, v) for k, v in given.items() if k not in names)
        return self


@dataclass(frozen=True, kw_only=True)
class DiscreteTime(Scheduler):
    """Abstract. A scheduler of a model trained on num_train_timesteps discrete noise levels."""

    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    trained_betas: tuple[float, ...] | None = None
    steps_offset: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.abar()  # the betas must be usable

    def abar(self) -> np.ndarray:  # [T] f32
        """The cumulative products of the training schedule, as diffusers computes them."""
        return alphas_cumprod(
            self.num_train_timesteps,
            self.beta_start,
            self.beta_end,
            self.beta_schedule,
            self.trained_betas,
            getattr(self, "rescale_betas_zero_snr", False),
        )

    def respacing(self) -> Callable[[float, float, int], np.ndarray] | None:
        """The function that re-spaces sigmas between two end values, where a use_..._sigmas key asks for one."""
        return next((respace for key, respace in RESPACINGS.items() if getattr(self, key, False)), None)


def _common_problems(s: Scheduler) -> Iterator[str]:
    """What cannot work in any class that has the keys."""
    for key, (low, high) in LIMITS.items():
        value = getattr(s, key, None)
        if value is not None and not low <= value <= high:
            yield f"{key} = {value!r}, allowed: from {low:g} to {high:g}"
    for key in ("use_beta_sigmas", "use_flow_sigmas", "use_dynamic_shifting"):
        if getattr(s, key, False):
            yield f"{key} is not supported yet; set it to False"
    chosen = [key for key in RESPACINGS if getattr(s, key, False)]
    if len(chosen) > 1:
        yield f"{' and '.join(chosen)} exclude each other: keep one"
    if getattr(s, "rescale_betas_zero_snr", False) and getattr(s, "prediction_type", "") == "epsilon":
        yield (
            "rescale_betas_zero_snr needs prediction_type v_prediction or sample: "
            "at zero signal a noise prediction says nothing about the picture"
        )


def _allows(kind: Any, value: Any) -> bool:
    """Whether a value fits an annotation: bool, int, float, str, None, Literal, tuple[float, ...] or a union."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_allows(float, v) for v in value)
    if get_args(kind):
        return any(_allows(k, value) for k in get_args(kind))
    if kind in (bool, str, NoneType) or isinstance(value, bool):
        return isinstance(value, kind)
    return isinstance(value, Integral if kind is int else Real) and not math.isnan(value)


def _allowed(kind: Any) -> str:
    names = {bool: "True or False", int: "a whole number", float: "a number", str: "text", NoneType: "None"}
    if get_origin(kind) is Literal:
        return ", ".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return "a list of numbers"
    return " or ".join(map(_allowed, get_args(kind))) or names[kind]
