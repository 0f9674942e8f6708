"""The safety checker: finished pictures to whether each shows what it is made to find, as its graph scores them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffrt.bundle import Bundle
from diffrt.components.graph import Graph
from diffrt.errors import BundleError
from diffrt.providers import Provider

NAME, INPUT, SPECIAL, CONCEPTS = "safety_checker", "clip_input", "special_scores", "concept_scores"
SETTINGS = "feature_extractor/preprocessor_config.json"
STRICTER = 0.01  # how much lower all further thresholds are once a special concept is found


class SafetyChecker:
    def __init__(self, bundle: Bundle, provider: Provider) -> None:
        self._settings = bundle.json(SETTINGS)
        self._graph = Graph(bundle, NAME, provider)

    def __call__(self, pictures: NDArray[np.uint8]) -> list[bool]:  # [B,H,W,3]
        pixels = np.concatenate([as_clip_sees(picture, self._settings) for picture in pictures])
        scores = self._graph.run_all({INPUT: pixels})
        return [found(*each) for each in zip(scores[SPECIAL], scores[CONCEPTS], strict=True)]

    def close(self) -> None:
        self._graph.close()


def found(special: NDArray[np.float32], concepts: NDArray[np.float32]) -> bool:
    """Whether any concept [17] is beyond its threshold, to three digits. What is special [3] does not count itself, but
    lowers the thresholds of all that come after it."""
    lower = 0.0
    for score in special:
        if round(float(score) + lower, 3) > 0:
            lower = STRICTER
    return any(round(float(score) + lower, 3) > 0 for score in concepts)


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
