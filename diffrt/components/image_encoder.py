"""The image encoder: pictures to what the denoiser is told of them, in place of a prompt."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffrt.bundle import Bundle
from diffrt.components.clip_pixels import SETTINGS, as_clip_sees
from diffrt.components.graph import Graph
from diffrt.components.text_encoder import joined
from diffrt.guidance import Conditions
from diffrt.manifest import IMAGE_ENCODER
from diffrt.providers import Provider

INPUT = "clip_input"


class ImageEncoder:
    def __init__(self, bundle: Bundle, provider: Provider) -> None:
        self._settings = bundle.json(SETTINGS)
        self._conditions = bundle.manifest.conditions
        self._graph = Graph(bundle, IMAGE_ENCODER, provider)

    def __call__(self, pictures: Sequence[NDArray[np.uint8]]) -> Conditions:  # [P] of [H,W,3] -> [P,S,D]
        pixels = np.concatenate([as_clip_sees(picture, self._settings) for picture in pictures])
        made = self._graph.run_all({INPUT: pixels})
        return joined(self._conditions, {f"{IMAGE_ENCODER}.{name}": array for name, array in made.items()})

    def close(self) -> None:
        self._graph.close()
