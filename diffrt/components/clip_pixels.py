"""Pictures as CLIP sees them: what transformers' CLIPImageProcessor makes of them, in NumPy and Pillow."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffrt.errors import BundleError

SETTINGS = "feature_extractor/preprocessor_config.json"


def as_clip_sees(picture: NDArray[np.uint8], settings: Mapping[str, Any]) -> NDArray[np.float32]:
    """[H,W,3] -> [1,3,S,S] by the settings of transformers' CLIPImageProcessor: the shorter side to a size, a square of
    the middle, and colours normalised. BundleError for settings of other kinds."""
    try:
        short, (height, width) = _short(settings["size"]), _pair(settings["crop_size"])
        resample = Image.Resampling(settings.get("resample", 3))
        scale = np.float32(settings.get("rescale_factor", 1 / 255))
        mean, std = (np.array(settings[key], np.float32).reshape(3) for key in ("image_mean", "image_std"))
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{SETTINGS} is not of the form that a CLIPImageProcessor has: {error}") from None
    rows, columns = picture.shape[:2]
    long = int(short * max(rows, columns) / min(rows, columns))
    size = (long, short) if columns > rows else (short, long)
    small = np.asarray(Image.fromarray(picture).resize(size, resample))
    top, left = (small.shape[0] - height) // 2, (small.shape[1] - width) // 2
    if top < 0 or left < 0:
        raise BundleError(f"{SETTINGS}: crop_size is larger than size")
    middle = small[top : top + height, left : left + width].astype(np.float32) * scale
    return np.ascontiguousarray(((middle - mean) / std).transpose(2, 0, 1)[None])


def _short(size: Any) -> int:
    """Of the shorter side: a number, in files of 2022."""
    return int(size["shortest_edge"] if isinstance(size, dict) else size)


def _pair(size: Any) -> tuple[int, int]:
    return (int(size["height"]), int(size["width"])) if isinstance(size, dict) else (int(size), int(size))
