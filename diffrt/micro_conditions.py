"""What Stable Diffusion XL is told beside the prompt (Podell et al. 2023, arXiv:2307.01952, section 2.2): which size
the training picture had, where it was cropped, and how large the result is. Its refiner is told of a score instead of
the last. And how much guidance a distilled model is to act as if it had, and how noisy the picture is that an upscaler
is told of.
"""

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffrt.errors import InvalidArgument, nearest
from diffrt.guidance import Conditions

PAIRS = ("original_size", "crops_coords_top_left", "target_size")
NEGATIVE = tuple(f"negative_{name}" for name in PAIRS)
SCORES = {"aesthetic_score": 6.0, "negative_aesthetic_score": 2.5}
ARGUMENTS = (*PAIRS, *NEGATIVE, *SCORES)


def told(
    inputs: Mapping[str, tuple[int | str, ...]],
    given: Mapping[str, Any],
    size: tuple[int, int],
    from_picture: bool,
    guidance: float,
    noise_level: int,
) -> tuple[Conditions, Conditions]:
    """What the denoiser is told of every picture, and of the negative half: each [1,N] or [1].

    inputs: the shapes of the denoiser's inputs; given: arguments named in ARGUMENTS; size: height and width of the
    result in pixels. Raises InvalidArgument for arguments that the denoiser has no input for, TypeError for
    names that are none.
    """
    for name in given:
        if name not in ARGUMENTS:
            raise TypeError(
                f"unexpected keyword argument {name!r}; beyond those of the signature: {nearest(name, ARGUMENTS)}"
            )
        if "time_ids" not in inputs:
            raise InvalidArgument(f"{name} is given, and this model is told of no sizes: leave it out")
    positive: dict[str, NDArray[Any]] = {}
    negative: dict[str, NDArray[Any]] = {}
    if "guidance" in inputs:
        positive["guidance"] = np.array([guidance], np.float32)
    if "noise_level" in inputs:
        positive["noise_level"] = negative["noise_level"] = np.array([noise_level], np.int64)
    if "time_ids" in inputs:
        scored = inputs["time_ids"][-1] == 5
        ids = _ids({k: _checked(k, v) for k, v in given.items() if v is not None}, size, from_picture, scored)
        positive["time_ids"], negative["time_ids"] = (np.array([each], np.float32) for each in ids)
    return positive, negative


def _ids(
    given: Mapping[str, Any], size: tuple[int, int], from_picture: bool, scored: bool
) -> tuple[list[float], list[float]]:
    """As diffusers fills them. The negative half is told, from words alone and without sizes of its own, what the other
    half is; with them its own crop or none; from a picture its own or the other's, but in a scored model none."""
    own_sizes = {"original_size": size, "crops_coords_top_left": (0, 0), "target_size": size}
    at: dict[str, Any] = {**own_sizes, **SCORES, **given}
    own = "negative_original_size" in given and "negative_target_size" in given
    apart = {name: given.get(f"negative_{name}", at[name]) for name in ("original_size", "target_size")}
    same = from_picture and not scored
    crop = given.get("negative_crops_coords_top_left", at["crops_coords_top_left"] if same else (0, 0))
    if not (from_picture or own):
        apart, crop = {name: at[name] for name in apart}, at["crops_coords_top_left"]
    last, negative_last = (at["target_size"], apart["target_size"])
    if scored:
        last, negative_last = (at["aesthetic_score"],), (at["negative_aesthetic_score"],)
    return (
        [*at["original_size"], *at["crops_coords_top_left"], *last],
        [*apart["original_size"], *crop, *negative_last],
    )


def _checked(name: str, value: Any) -> Any:
    if name in SCORES:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise InvalidArgument(f"{name} is {value!r:.60}: give a number, such as {SCORES[name]}")
        return float(value)
    pair = isinstance(value, list | tuple) and len(value) == 2
    if not pair or not all(isinstance(each, Integral) and not isinstance(each, bool) for each in value):
        raise InvalidArgument(f"{name} is {value!r:.60}: give two whole numbers, such as (1024, 1024)")
    return tuple(map(int, value))
