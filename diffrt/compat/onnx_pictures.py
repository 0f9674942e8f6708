"""Pictures and masks, resized as diffusers' ONNX pipelines resized them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image, Resampling

from diffrt.errors import InvalidArgument

F32 = NDArray[np.float32]
MULTIPLE = 64  # pixels that a picture to start from is floored to


def floored(image: Any) -> list[Image]:
    """One picture or several, of the first one's size down to a multiple of 64."""
    pictures = [_picture("image", each) for each in (image if isinstance(image, Sequence) else [image])]
    if not pictures:
        raise InvalidArgument("image is an empty list: give a Pillow image, or several")
    width, height = (side - side % MULTIPLE for side in pictures[0].size)
    if not width or not height:
        raise InvalidArgument(f"image is {pictures[0].size} pixels: give one of at least 64 on each side")
    return [each.resize((width, height), Resampling.LANCZOS) for each in pictures]


def covered(
    image: Any, mask: Any, size: tuple[int, int], latent_size: tuple[int, int]
) -> tuple[F32, F32]:  # [1,1,h,w] 0 or 1, [1,3,H,W] in [-1,1]
    """The mask in latent pixels, and the picture without what it covers."""
    height, width = size
    grey = _picture("mask_image", mask, "L")
    pixels = np.asarray(_picture("image", image).resize((width, height)), np.float32)
    keep = np.asarray(grey.resize((width, height)), np.float32) < 127.5
    rest = (pixels / np.float32(127.5) - np.float32(1)).transpose(2, 0, 1) * keep
    small = np.asarray(grey.resize(latent_size[::-1], Resampling.NEAREST)) >= 0.5 * 255
    return small.astype(np.float32)[None, None], rest[None]


def _picture(name: str, value: Any, mode: str = "RGB") -> Image:
    if not isinstance(value, Image):
        raise InvalidArgument(f"{name} is {value!r:.60}: give a Pillow image; diffrt.load takes paths too")
    return value.convert(mode)
