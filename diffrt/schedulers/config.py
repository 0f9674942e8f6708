"""What a scheduler config may hold: the keys of the ecosystem, their types, limits and conflicts."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral, Real
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from diffrt.schedulers.grid import RESPACINGS

# Every key of diffusers' continuous schedulers, and two of 2022's (the last): harmless to a class that lacks it,
# so that a config saved by one scheduler loads into another.
KNOWN_KEYS = frozenset(
    """
    algorithm_type base_image_seq_len base_shift beta_end beta_max beta_min beta_schedule beta_start
    clip_denoised clip_sample clip_sample_range correct_steps corrector_order disable_corrector
    dynamic_thresholding_ratio eta euler_at_final final_sigmas_type flow_shift interpolation_type invert_sigmas
    lambda_min_clipped lower_order_final max_image_seq_len max_shift noise_sampler_seed num_train_timesteps
    original_inference_steps predict_x0 prediction_type predictor_order rescale_betas_zero_snr rho s s_noise
    sample_max_value sampling_eps scale_factors scaler set_alpha_to_one shift shift_terminal sigma_data
    sigma_max sigma_min sigma_schedule skip_prk_steps snr snr_shift_scale solver_order solver_p solver_type
    steps_offset stochastic_sampling tau_func thresholding time_shift_type timestep_scaling timestep_spacing
    s_churn s_max s_min timestep_type trained_betas upscale_mode use_beta_sigmas use_dynamic_shifting
    use_exponential_sigmas use_flow_sigmas use_karras_sigmas use_lu_lambdas variance_type tensor_format timestep_values
    """.split()  # noqa: SIM905
)


# --- keys that go together: a class takes them by deriving from their group ---------------------------------


@dataclass(frozen=True, kw_only=True)
class Thresholding:
    """Dynamic thresholding of x0: see table.Threshold."""

    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Respacing:
    """Which function re-spaces the levels: see grid.RESPACINGS."""

    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False


# --- what they may be ------------------------------------------------------------------------------------

# Inclusive limits of numeric keys, wherever they occur.
LIMITS = {
    "num_train_timesteps": (1, math.inf),
    "original_inference_steps": (1, math.inf),
    "shift_terminal": (0, 1 - 1e-6),
    "flow_shift": (1e-6, 1e6),
    "sigma_min": (1e-10, math.inf),
    "sigma_max": (1e-10, math.inf),
    **dict.fromkeys(("eta", "dynamic_thresholding_ratio"), (0, 1)),
    **dict.fromkeys(("steps_offset", "s_noise", "noise_sampler_seed", "s"), (0, math.inf)),
    **dict.fromkeys(("shift", "sigma_data", "rho", "snr_shift_scale", "scaler"), (1e-6, math.inf)),
    **dict.fromkeys(("clip_sample_range", "sample_max_value"), (1e-6, math.inf)),
}


def conflicts(scheduler: Any) -> Iterator[str]:
    """What cannot work in any class that has the keys, one line each."""
    values = vars(scheduler)
    for key, (low, high) in LIMITS.items():
        value = values.get(key)
        if value is not None and not low <= value <= high:
            yield f"{key} = {value!r}, allowed: from {low:g} to {high:g}"
    chosen = [key for key in RESPACINGS if values.get(key)]
    if len(chosen) > 1:
        yield f"{' and '.join(chosen)} exclude each other: keep one"
    low, high = values.get("sigma_min"), values.get("sigma_max")
    if low is not None and high is not None and low >= high:
        yield f"sigma_min = {low:g} must be below sigma_max = {high:g}"
    if values.get("rescale_betas_zero_snr") and values.get("prediction_type") == "epsilon":
        yield (
            "rescale_betas_zero_snr needs prediction_type v_prediction or sample: "
            "where there is no signal, a noise prediction says nothing about the picture"
        )


def allows(kind: Any, value: Any) -> bool:
    """Whether a value fits an annotation: bool, int, float, str, None, Literal, tuple[X, ...] or a union."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(allows(get_args(kind)[0], v) for v in value)
    if get_args(kind):
        return any(allows(k, value) for k in get_args(kind))
    if kind in (bool, str, NoneType) or isinstance(value, bool):
        return type(value) is kind
    return isinstance(value, Integral if kind is int else Real) and not math.isnan(value)


def allowed(kind: Any) -> str:
    """The values of an annotation in words."""
    names = {bool: "True or False", int: "a whole number", float: "a number", str: "text", NoneType: "None"}
    if get_origin(kind) is Literal:
        return ", ".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return "a list of numbers"
    return " or ".join(map(allowed, get_args(kind))) or names[kind]
