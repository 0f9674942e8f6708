"""Input pictures and masks: from a file, Pillow or an array to what the autoencoder takes.

A picture is resized as the reference resizes it: Lanczos, to a multiple of the latents' pixels at or below its size.
"""

import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from diffrt.errors import InvalidArgument

F32 = NDArray[np.float32]
WHAT = "give a path, a Pillow image or an array"


def read(path: str | os.PathLike[str]) -> Image.Image:
    """A picture file, whole and upright. InvalidArgument where it cannot be read or is too large to be safe."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(path) as image:
                image.load()
                return ImageOps.exif_transpose(image)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            limit = Image.MAX_IMAGE_PIXELS
            raise InvalidArgument(f"{path} has more than {limit} pixels: make it smaller first") from None
        except UnidentifiedImageError:
            raise InvalidArgument(f"{path} is no picture that can be read: give a PNG, JPEG or WebP") from None
        except (OSError, SyntaxError, ValueError) as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise InvalidArgument(f"the picture {path} cannot be read: {reason}") from None


def as_list(value: Any) -> list[Any]:
    """One picture or several, read from their files where paths are given."""
    many = value if isinstance(value, (list, tuple)) else [value]
    if not many:
        raise InvalidArgument(f"no picture is given: {WHAT}")
    return [read(one) if isinstance(one, (str, os.PathLike)) else one for one in many]


def common_size(name: str, pictures: Sequence[Any]) -> tuple[int, int]:
    """The (height, width) that all have, or InvalidArgument."""
    sizes = {_size(name, picture) for picture in pictures}
    if len(sizes) > 1:
        raise InvalidArgument(f"{name}: the pictures have the sizes {_spelled(sizes)} (HxW): give pictures of one size")
    return sizes.pop()


def check_same_size(image: tuple[int, int], mask: tuple[int, int]) -> None:
    if image != mask:
        raise InvalidArgument(
            f"mask_image is {_spelled([mask])} and image {_spelled([image])} (HxW): give a mask of the image's size"
        )


def colours(
    pictures: Sequence[Any], height: int, width: int, resample: Image.Resampling = Image.Resampling.LANCZOS
) -> F32:  # [N,3,height,width] in [-1,1]
    """Arrays are [H,W,3], u8 or floats in [0,1]."""
    return _stack("image", pictures, (height, width), _rgb, resample) * np.float32(2) - np.float32(1)


def whole(pictures: Sequence[Any]) -> tuple[NDArray[np.uint8], ...]:  # each [H,W,3]
    """Each picture as it is, of its own size."""
    return tuple(_bytes(picture) for picture in pictures)


def masks(pictures: Sequence[Any], height: int, width: int) -> F32:  # [N,1,height,width], 0 or 1
    """1 is what will be painted anew: white, or from one half on. Arrays are [H,W], bool, u8 or floats in [0,1]."""
    return (_stack("mask_image", pictures, (height, width), _grey) >= 0.5).astype(np.float32)


def _stack(
    name: str,
    pictures: Sequence[Any],
    size: tuple[int, int],
    convert: Callable[[Image.Image], Any],
    resample: Image.Resampling = Image.Resampling.LANCZOS,
) -> F32:
    return np.stack([_planes(name, picture, size, convert, resample) for picture in pictures])


def _bytes(picture: Any) -> NDArray[np.uint8]:
    _size("image", picture)
    if isinstance(picture, Image.Image):
        return np.asarray(_rgb(picture))
    return (_unit("image", picture) * np.float32(255)).round().astype(np.uint8)


def _rgb(image: Image.Image) -> Image.Image:
    """A transparent picture is laid on white."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _grey(image: Image.Image) -> Image.Image:
    return image.convert("L")


def _planes(
    name: str,
    picture: Any,
    size: tuple[int, int],
    convert: Callable[[Image.Image], Any],
    resample: Image.Resampling,
) -> F32:
    """[C,H,W] f32 in [0,1]."""
    if isinstance(picture, Image.Image):
        if convert is _rgb:  # a mask is resized before it is made grey, as in the reference
            picture = convert(picture)
        picture = convert(picture.resize((size[1], size[0]), resample))
        array = np.asarray(picture, np.float32) / np.float32(255)
    else:
        array = _unit(name, picture)
        if array.shape[:2] != size:
            raise InvalidArgument(
                f"{name} is an array of {array.shape[0]}x{array.shape[1]} pixels for a picture of {size[0]}x{size[1]}: "
                "arrays are not resized; give a Pillow image"
            )
    return array.transpose(2, 0, 1) if array.ndim == 3 else array[None]


def _unit(name: str, array: NDArray[Any]) -> F32:
    """An array of pixels as f32 in [0,1]."""
    if array.dtype.kind not in "bf" and array.dtype != np.uint8:
        raise InvalidArgument(f"{name} is an array of {array.dtype}: give uint8, or floats from 0 to 1")
    if array.dtype == np.uint8:
        return array.astype(np.float32) / np.float32(255)
    if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
        raise InvalidArgument(f"{name} is an array with values outside 0 to 1: scale it, or give uint8")
    return array.astype(np.float32)


def _size(name: str, picture: Any) -> tuple[int, int]:
    dims = (2,) if name == "mask_image" else (3,)
    if isinstance(picture, Image.Image):
        size = (picture.height, picture.width)
    elif isinstance(picture, np.ndarray) and picture.ndim in dims and (picture.ndim == 2 or picture.shape[2] == 3):
        size = (picture.shape[0], picture.shape[1])
    else:
        shape = f"an array of shape {list(picture.shape)}" if isinstance(picture, np.ndarray) else f"{picture!r:.60}"
        form = "[H,W]" if name == "mask_image" else "[H,W,3]"
        raise InvalidArgument(f"{name} is {shape}: {WHAT} {form}")
    if 0 in size:
        raise InvalidArgument(f"{name} is empty: it has {size[0]}x{size[1]} pixels")
    return size


def _spelled(sizes: Any) -> str:
    return ", ".join(f"{h}x{w}" for h, w in sorted(sizes))
