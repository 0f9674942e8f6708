"""What every scheduler is: a frozen record of diffusers' config keys that can build a grid and a table.

A scheduler class declares its keys as annotated fields with diffusers' defaults, and three functions:
`grid` (which noise levels), `build` (the formula, run on unit vectors) and `marginal` (the forward process).
The parameters of `grid` and `build` that have a default are the options of a run, such as custom timesteps or eta:
`table` takes those and refuses others.
"""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, FrozenInstanceError, dataclass, fields
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self, dataclass_transform

import numpy as np

from diffrt.errors import InvalidArgument, nearest
from diffrt.schedulers.betas import alphas_cumprod
from diffrt.schedulers.config import KNOWN_KEYS, allowed, allows, conflicts, outside
from diffrt.schedulers.grid import (
    RESPACINGS,
    Grid,
    Node,
    spaced,
    training_node,
    ve_grid,
    ve_levels,
    ve_marginal,
    vp_marginal,
)
from diffrt.schedulers.prediction import predict
from diffrt.schedulers.rows import Form
from diffrt.schedulers.shifting import picture_mu
from diffrt.tables.stepping import Stepper
from diffrt.tables.table import Table, Threshold

OLD = {"prediction_type": {"original_sample": "sample"}}  # spelled as the first configs have it, as in `aliases`


# Methods that dataclasses would generate, class by class, are most of the time of an import.
@dataclass_transform(kw_only_default=True, frozen_default=True)
class Scheduler(ABC):
    """Abstract. Every class derived from it is a frozen dataclass of keywords; equality and hash are those of the
    fields. A config that cannot work is InvalidArgument."""

    aliases: ClassVar[Mapping[str, Mapping[str, str]]] = {}  # key: {another class's value: what it means here}
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    __signature__: ClassVar[inspect.Signature]
    _given: ClassVar[frozenset[str]]  # these two are per instance; as ClassVar they do not become fields
    _carried: ClassVar[dict[str, Any]]

    def __init_subclass__(cls) -> None:
        dataclass(init=False, repr=False, eq=False)(cls)
        KNOWN_KEYS.update(f.name for f in fields(cls))
        key = partial(inspect.Parameter, kind=inspect.Parameter.KEYWORD_ONLY)
        cls.__signature__ = inspect.Signature([key(f.name, default=f.default) for f in fields(cls)])  # for help

    def __init__(self, **given: Any) -> None:
        name, kinds = type(self).__name__, {f.name: f for f in fields(self)}
        for key in given.keys() - kinds:
            raise InvalidArgument(f"{name} has no key {key!r}: {nearest(key, kinds)}")
        # Which keys were given is part of a config: as in diffusers, a key left at its default here becomes the
        # next class's own default when classes are switched.
        vars(self).update(_given=frozenset(given), _carried={})
        for key, f in kinds.items():
            value = given.get(key, f.default)
            if isinstance(value, (list, np.ndarray)):
                value = tuple(np.asarray(value).tolist())
            elif isinstance(value, str):
                value = {**OLD, **self.aliases}.get(key, {}).get(value, value)
            if not allows(f.type, value):
                raise InvalidArgument(f"{name}: {key} = {value!r}, allowed: {allowed(f.type)}")
            vars(self)[key] = value
        for message in (*conflicts(self), *self.problems()):
            raise InvalidArgument(f"{name}: {message}")

    def __setattr__(self, name: str, value: Any) -> None:
        raise FrozenInstanceError(f"a scheduler does not change: dataclasses.replace(scheduler, {name}=...)")

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError("a scheduler does not change")

    def _key(self) -> tuple[Any, ...]:
        return type(self), *(getattr(self, f.name) for f in fields(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scheduler) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in fields(self))})"

    def problems(self) -> Iterable[str]:
        """Why this combination of keys cannot work, one line each."""
        return ()

    @abstractmethod
    def grid(self, *args: Any, **options: Any) -> Grid:
        """The noise levels of a run of n steps, which come first, by the options that the class takes."""

    @abstractmethod
    def build(self, *args: Any, **options: Any) -> Table:
        """The method's formula over a grid."""

    def build_after(self, grid: Grid, skip: int, **options: Any) -> Table:
        """The method without the first `skip` steps of a grid, begun anew after them: for image-to-image."""
        return self.build(grid.after(skip), **options)

    @abstractmethod
    def marginal(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(alpha, sigma) of x = alpha x0 + sigma eps at training times t. [B] f64 -> [B] f64, [B] f64"""

    def respacing(self) -> Callable[[float, float, int], np.ndarray] | None:
        """The function that re-spaces sigmas between two ends, where a use_..._sigmas key asks for one."""
        return next((respace for key, respace in RESPACINGS.items() if getattr(self, key, False)), None)

    def shape(self) -> dict[str, Any]:
        """How x0 is shaped, by the keys that a class has: thresholding goes before clip_sample. Both are for models of
        pixels, whose x0 lies in [-1, 1]. A scheduler cannot know what its model makes: with latents, set neither."""
        s: Any = self
        if getattr(s, "thresholding", False):
            return {"threshold": Threshold(s.dynamic_thresholding_ratio, s.sample_max_value)}
        return {"clip": getattr(s, "clip_sample_range", 1.0) if getattr(s, "clip_sample", False) else None}

    @property
    def first_time(self) -> float:
        """The smallest training time."""
        return 0.0

    @property
    def last_time(self) -> float:
        """The largest training time."""
        return getattr(self, "num_train_timesteps", math.inf) - 1

    @classmethod
    def options(cls) -> tuple[str, ...]:
        """What a run of this class can be told beyond its number of steps."""
        return (*_options(cls.grid), *_options(cls.build))

    def table(self, num_inference_steps: int | None = None, *, skip: int = 0, **options: Any) -> Table:
        """The sampler as numbers. Options are those of the class (`.options()`); the most common are

        timesteps   the training times to visit, descending, in place of num_inference_steps
        sigmas      the noise levels to visit, descending, in place of num_inference_steps
        mu          how far dynamic shifting moves the levels of a flow model up, from the size of the picture
        eta         DDIM's share of fresh noise, from 0 to 1
        use_clipped_model_output  whether DDIM's noise is what a clipped or thresholded x0 leaves of x
        s_churn     how much noise each step first adds, at levels from s_tmin to s_tmax, times s_noise

        With `skip`, the run starts that many steps later, from latents at the noise level of the table's first row.
        Raises InvalidArgument for a run that cannot be.
        """
        grid, building = self._run(num_inference_steps, options)
        if not 0 <= skip < len(grid):
            raise InvalidArgument(f"skip = {skip}, allowed: 0 to {len(grid) - 1} of so many steps")
        return self.build_after(grid, skip, **building) if skip else self.build(grid, **building)

    def picture_options(self, tokens: int) -> dict[str, Any]:
        """What a run must be told of a picture of so many tokens: mu, with use_dynamic_shifting."""
        if not self.config.get("use_dynamic_shifting") or "mu" not in self.options():
            return {}
        return {"mu": picture_mu(self.config, tokens)}

    def stepper(self, num_inference_steps: int | None = None, **options: Any) -> Stepper:
        """The same sampler behind diffusers' stepping interface."""
        grid, building = self._run(num_inference_steps, options)
        return Stepper(self.build(grid, **building), grid.sigmas)

    def _run(self, n: int | None, options: Mapping[str, Any]) -> tuple[Grid, dict[str, Any]]:
        """The grid, and the options of `build`."""
        name = type(self).__name__
        given = {key: value for key, value in options.items() if value is not None}
        kinds = inspect.get_annotations(self.grid) | inspect.get_annotations(self.build)
        for key, value in given.items():
            if why := outside(key, value):
                raise InvalidArgument(why)
            if key not in self.options() and (key != "eta" or value):
                names = ", ".join(self.options()) or "no option"
                raise InvalidArgument(f"{key} = {value!r:.80}: {name} takes no {key}, allowed: {names}")
            if kinds.get(key) in (bool, int) and not allows(kinds[key], value):
                raise InvalidArgument(f"{key} = {value!r:.80}, allowed: {allowed(kinds[key])}")
        for key in ("timesteps", "sigmas"):
            if key in given:
                given[key] = descending(key, given[key])
                if key == "timesteps" and given[key][0] > self.last_time:
                    raise InvalidArgument(f"timesteps begin at {given[key][0]:g}, allowed: at most {self.last_time:g}")
                if n not in (None, len(given[key])):
                    raise InvalidArgument(f"num_inference_steps = {n!r} and {len(given[key])} {key}: give one of them")
                n = len(given[key])
        most = getattr(self, "num_train_timesteps", math.inf)
        if not allows(int, n) or not 1 <= n <= most:  # type: ignore[operator]
            raise InvalidArgument(f"num_inference_steps = {n!r}, allowed: 1 to {most} (num_train_timesteps)")
        grid = self.grid(int(n), **{k: given.pop(k) for k in _options(self.grid) if k in given})  # type: ignore[arg-type]
        return grid, {k: v for k, v in given.items() if k in self.options()}

    def add_noise(self, original: np.ndarray, noise: np.ndarray, timestep: Any) -> np.ndarray:
        """alpha_t * original + sigma_t * noise, both [B, ...], at one training time or at one for each image."""
        t = np.atleast_1d(np.asarray(timestep, np.float64))
        first, last = self.first_time, self.last_time
        if t.shape not in ((1,), (len(original),)) or not np.all((t >= first) & (t <= last)):
            count = len(original)
            raise InvalidArgument(f"timestep = {timestep!r}, allowed: one, or {count}, from {first:g} to {last:g}")
        shape = (-1, *[1] * (original.ndim - 1))
        alpha, sigma = (c.astype(original.dtype).reshape(shape) for c in self.marginal(t))
        return alpha * original + sigma * noise

    @property
    def config(self) -> Mapping[str, Any]:
        """The fields as a read-only mapping, with _class_name, and with the keys it was loaded with but does not
        use: switching classes loses nothing (Stable Diffusion's PNDM config carries DDIM's clip_sample)."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        defaulted = [name for name in own if name not in self._given]
        head = {"_class_name": type(self).__name__}
        return MappingProxyType({**head, **own, **self._carried, "_use_default_values": defaulted})

    @property
    def ignored(self) -> tuple[str, ...]:
        """The known keys it was loaded with and does not use."""
        return tuple(self._carried)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """From a scheduler_config.json or another scheduler's .config. Keys of other schedulers are ignored and
        reported in .ignored, keys beginning with "_" are skipped, any other key is InvalidArgument."""
        if not isinstance(config, Mapping):
            raise InvalidArgument(f"a scheduler config is a mapping of keys, got {type(config).__name__}")
        defaulted = config.get("_use_default_values", ())
        given = {k: v for k, v in config.items() if not k.startswith("_") and k not in defaulted}
        others = KNOWN_KEYS - {f.name for f in fields(cls)}
        carried = {k: v for k, v in given.items() if k in others}
        self = cls(**{k: v for k, v in given.items() if k not in carried})
        self._carried.update(carried)
        return self


def _options(function: Callable[..., Any]) -> tuple[str, ...]:
    """The parameters of a grid or build function that have a default."""
    return tuple(name for name, p in inspect.signature(function).parameters.items() if p.default is not p.empty)


def descending(name: str, values: Sequence[float]) -> np.ndarray:  # [n] f64
    """Custom timesteps or sigmas, or InvalidArgument where they are not numbers that fall from each to the next."""
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all() or (array < 0).any():
        raise InvalidArgument(f"{name} = {values!r:.80}, allowed: a list of finite numbers of at least 0")
    rises = np.flatnonzero(np.diff(array) >= 0)
    if len(rises):
        before, after = array[rises[0]], array[rises[0] + 1]
        raise InvalidArgument(f"{name} must fall from each to the next, got {before:g} and then {after:g}")
    return array


class Thresholding(Scheduler):
    """Abstract. The keys of dynamic thresholding: see table.Threshold."""

    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0


class Respacing(Scheduler):
    """Abstract. The keys of what re-spaces the levels: see grid.RESPACINGS."""

    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False


class Trained(Scheduler):
    """Abstract. A scheduler of a model trained on num_train_timesteps discrete noise levels."""

    num_train_timesteps: int = 1000

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.abar()  # refuses betas that cannot be used

    @abstractmethod
    def abar(self) -> np.ndarray:  # [T] f32
        """The cumulative products of the training schedule."""

    def marginal(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return vp_marginal(self.abar(), t)


class Betas(Trained):
    """Abstract. With a schedule of betas."""

    # The last abar under rescale_betas_zero_snr: not quite 0 where sigma / alpha must be finite.
    terminal_abar: ClassVar[float] = 2.0**-24

    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    trained_betas: tuple[float, ...] | None = None

    def schedule(self) -> tuple:
        """What betas_of and alphas_cumprod take."""
        return self.num_train_timesteps, self.beta_start, self.beta_end, self.beta_schedule, self.trained_betas

    def abar(self) -> np.ndarray:  # [T] f32
        terminal = self.terminal_abar if getattr(self, "rescale_betas_zero_snr", False) else None
        return alphas_cumprod(*self.schedule(), terminal)


class DiscreteTime(Betas):
    """Abstract. With times that are spaced over the training's, of a network that tells what prediction_type says."""

    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    timestep_spacing: Literal["linspace", "leading", "trailing"] = "linspace"
    steps_offset: int = 0

    def read(self, at: Node, x: Form, m: Form) -> tuple[Form, Form]:
        """(x0, eps) of x and the network's output m."""
        return predict(self.prediction_type, at, x, m)

    def times(self, n: int, timesteps: np.ndarray | None = None) -> np.ndarray:  # [n] f64
        """n training times, descending, as timestep_spacing and steps_offset say; "linspace" is not rounded. Or those
        that are given, if they can be."""
        if timesteps is not None:
            for key in RESPACINGS:
                if getattr(self, key, False):
                    raise InvalidArgument(f"timesteps and {key} exclude each other: keep one")
            return timesteps
        return spaced(self.timestep_spacing, n, self.num_train_timesteps, self.steps_offset)


class Strided(DiscreteTime):
    """Abstract. VP steps from each time to the time one fixed stride before it, wherever the next step starts."""

    set_alpha_to_one: bool = True

    def grid(self, n: int) -> Grid:
        abar, times, stride = self.abar(), np.round(self.times(n)), self.num_train_timesteps // n
        at, to = ([training_node(abar, t, self.set_alpha_to_one) for t in ends] for ends in (times, times - stride))
        return Grid(tuple(at), tuple(to))


class Classic(DiscreteTime):
    """Abstract. The keys of DDPM and its kin; alpha = 0 at the last time is no trouble to them."""

    terminal_abar: ClassVar[float] = 0.0

    clip_sample: bool = True
    clip_sample_range: float = 1.0
    timestep_spacing: Literal["linspace", "leading", "trailing"] = "leading"
    rescale_betas_zero_snr: bool = False


class Exploding(DiscreteTime):
    """Abstract. In x = x0 + sigma eps."""

    def marginal(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return ve_marginal(self.abar(), t, log=self.respacing() is not None)

    def grid(self, n: int) -> Grid:
        return self.sigma_grid(self.times(n))

    def sigma_grid(self, times: np.ndarray, rounded: bool = True, whole: bool = False) -> Grid:
        """Through the levels of these times, or as many re-spaced ones, to 0. `rounded`: times are read in float32;
        `whole`: the network is told whole ones."""
        times, sigmas = ve_levels(self.abar(), times, self.respacing(), rounded=rounded)
        return ve_grid(np.round(times) if whole else times, np.append(sigmas, 0), self.timestep_spacing)
