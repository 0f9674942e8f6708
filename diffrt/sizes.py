"""The size that a picture is drawn at: as given, else the image's or the latents', else the model's own."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffrt.arguments import positive, shown
from diffrt.errors import InvalidArgument
from diffrt.manifest import Manifest
from diffrt.own_sizes import Size, nearest_of
from diffrt.picture_tasks import times
from diffrt.pictures import check_same_size, common_size

MOST_SCALING = 4  # of a picture that is drawn at a size of the model's own


@dataclass(frozen=True, eq=False)
class Given:
    """What has a size: pictures and masks, or latents that encode them, or noise."""

    pictures: Sequence[Any]
    masks: Sequence[Any]
    encoded: Any  # [B,C,h,w] in place of pictures
    latents: Any  # [B,C,h,w] unit noise


def drawn_size(
    manifest: Manifest, task: str, height: Any, width: Any, given: Given, binned: bool
) -> tuple[Size, Size | None]:
    """The size to draw at, and with `binned` that which is asked for, where it is another. What does not fit the model
    is InvalidArgument."""
    if given.pictures or given.encoded is not None:
        return size_of_picture(manifest, task, height, width, given), None
    if not binned or (height is None and width is None):
        return checked_size(manifest, height, width, given.latents), None
    usual = manifest.defaults
    asked = (
        positive("height", usual.height if height is None else height),
        positive("width", usual.width if width is None else width),
    )
    drawn = checked_size(manifest, *nearest_of(manifest.latents["sizes"], asked), given.latents)
    if max(asked[0] / drawn[0], asked[1] / drawn[1]) > MOST_SCALING:
        raise InvalidArgument(
            f"height and width are {asked[0]} and {asked[1]}: the model draws {drawn[0]} and {drawn[1]}, and "
            f"a picture is scaled up by at most {MOST_SCALING}"
        )
    return drawn, None if asked == drawn else asked


def size_of_picture(manifest: Manifest, task: str, height: Any, width: Any, given: Given) -> Size:
    """Where there is an image, or its latents."""
    factor = manifest.latents["scale_factor"]
    larger = times(task, factor)
    if larger > 1 and not (height is None and width is None):
        raise InvalidArgument(f"height and width are given, and are {larger} times the image's: leave them out")
    if given.pictures:
        own = common_size("image", given.pictures)
        if given.masks:
            check_same_size(own, common_size("mask_image", given.masks))
        floored = _floored(own, factor if task == "upscale" else _multiple(manifest))
        height = floored[0] * larger if height is None else height
        width = floored[1] * larger if width is None else width
        return checked_size(manifest, height, width, given.latents)
    size = checked_size(manifest, height, width, given.encoded, larger)
    if given.masks:
        check_same_size(size, common_size("mask_image", given.masks))
    return size


def checked_size(manifest: Manifest, height: Any, width: Any, latents: Any, larger: int = 1) -> Size:
    """Height and width in pixels: as given, else as many times those of the latents, else the model's own."""
    factor = manifest.latents["scale_factor"] * larger
    multiple = _multiple(manifest)
    inferred = [n * factor for n in np.shape(latents)[2:]] if np.ndim(latents) == 4 else None
    sizes = []
    for name, value, other in zip(
        ("height", "width"),
        (height, width),
        inferred or (manifest.defaults.height, manifest.defaults.width),
        strict=True,
    ):
        size = positive(name, other if value is None else value)
        if size % multiple:
            near = max(multiple, round(size / multiple) * multiple)
            raise InvalidArgument(f"{name} is {size}: give a multiple of {multiple}, for instance {near}")
        sizes.append(size)
    return sizes[0], sizes[1]


def checked_binning(able: bool, asked: Any, pictured: bool) -> bool:
    """Whether to draw at the nearest of the model's own sizes, where that is possible."""
    if asked is not None and not isinstance(asked, bool):
        raise InvalidArgument(f"use_resolution_binning is {shown(asked)}: give True or False")
    if asked and not able:
        why = "an image has a size of its own" if pictured else "this model has no sizes of its own"
        raise InvalidArgument(f"use_resolution_binning is given, and {why}: leave it out")
    return able if asked is None else asked


def _floored(own: Size, multiple: int) -> Size:
    """A picture's own height and width, down to what the model can draw."""
    if min(own) < multiple:
        raise InvalidArgument(f"image has {own[0]}x{own[1]} pixels (HxW): at least {multiple}x{multiple} are needed")
    return own[0] - own[0] % multiple, own[1] - own[1] % multiple


def _multiple(manifest: Manifest) -> int:
    factor = manifest.latents["scale_factor"]
    return factor if factor == 1 else math.lcm(8, factor * manifest.latents.get("patch", 1))
