"""The safety checker: finished pictures to whether each shows what it is made to find, as its graph scores them."""

import numpy as np
from numpy.typing import NDArray

from diffrt.bundle import Bundle
from diffrt.components.clip_pixels import SETTINGS, as_clip_sees
from diffrt.components.graph import Graph
from diffrt.providers import Provider

NAME, INPUT, SPECIAL, CONCEPTS = "safety_checker", "clip_input", "special_scores", "concept_scores"
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
