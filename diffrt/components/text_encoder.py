"""The text encoder: prompts to embeddings."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffrt.bundle import Bundle
from diffrt.components.graph import Graph
from diffrt.components.tokenizer import Tokenizer
from diffrt.providers import Provider


class TextEncoder:
    """Raises BundleError on construction where the bundle's tokenizer cannot be used."""

    def __init__(self, bundle: Bundle, provider: Provider) -> None:
        self.tokenizer = Tokenizer.from_bundle(bundle.root, bundle.manifest)
        self._graph = Graph(bundle, "text_encoder", provider, "last_hidden_state")

    def __call__(self, prompts: Sequence[str]) -> tuple[NDArray[np.float32], tuple[str, ...]]:
        """[B] texts -> [B,S,D] f32, and per text the end of it that did not fit."""
        ids, truncated = self.tokenizer(prompts)
        return self._graph.run({"input_ids": ids}), truncated

    def close(self) -> None:
        self._graph.close()
