"""What a scheduler config may hold: the keys of the ecosystem, their types, limits and conflicts."""

import math
from collections.abc import Iterator
from numbers import Integral, Real
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from diffrt.schedulers.grid import RESPACINGS

# Keys that any class loads, and carries where it has no use for them, so that a config saved by one scheduler loads
# into another: those of every class, which adds its own when it is defined, and a few that no class here has.
KNOWN_KEYS = {"s_churn", "s_max", "s_min", "tensor_format", "timestep_values"}

# Inclusive limits of numeric keys and of a run's options, wherever they occur.
LIMITS = {
    "num_train_timesteps": (1, math.inf),
    "original_inference_steps": (1, math.inf),
    "shift_terminal": (0, 1 - 1e-6),
    "flow_shift": (1e-6, 1e6),
    "sigma_min": (1e-10, math.inf),
    "sigma_max": (1e-10, math.inf),
    **dict.fromkeys(("eta", "dynamic_thresholding_ratio"), (0, 1)),
    **dict.fromkeys(("steps_offset", "noise_sampler_seed", "s"), (0, math.inf)),
    **dict.fromkeys(("s_churn", "s_tmin", "s_tmax", "s_noise"), (0, math.inf)),
    **dict.fromkeys(("shift", "sigma_data", "rho", "snr_shift_scale", "scaler"), (1e-6, math.inf)),
    **dict.fromkeys(("clip_sample_range", "sample_max_value"), (1e-6, math.inf)),
}


def outside(key: str, value: Any) -> str:
    """Which limits a value is not within; empty where it is, or where there are none."""
    low, high = LIMITS.get(key, (None, None))
    within = low is None or (allows(float, value) and low <= value <= high)
    return "" if within else f"{key} = {value!r:.80}, allowed: from {low:g} to {high:g}"


def conflicts(scheduler: Any) -> Iterator[str]:
    """What cannot work in any class that has the keys, one line each."""
    values = vars(scheduler)
    yield from (why for key, value in values.items() if value is not None and (why := outside(key, value)))
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
