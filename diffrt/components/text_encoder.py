"""The text encoder: prompts to embeddings, weighted where they say so."""

from collections.abc import Sequence

from diffrt.bundle import Bundle
from diffrt.components.graph import Graph
from diffrt.components.tokenizer import Tokenizer
from diffrt.prompting import Text
from diffrt.providers import Provider
from diffrt.weighting import F32, weigh


class TextEncoder:
    """Raises BundleError on construction where the bundle's tokenizer cannot be used."""

    def __init__(self, bundle: Bundle, provider: Provider) -> None:
        self.tokenizer = Tokenizer.from_bundle(bundle.root, bundle.manifest)
        self._graph = Graph(bundle, "text_encoder", provider, "last_hidden_state")

    def __call__(
        self, texts: Sequence[Text], chunks: int = 1, weighting: str | None = None
    ) -> tuple[F32, tuple[str, ...]]:
        """[B] texts -> [B,S,D] f32, and per text the end of it that did not fit. S is chunks * max_length."""
        ids, weights, truncated = self.tokenizer(texts, chunks)
        embeds = self._graph.run({"input_ids": ids})
        if weighting is not None and (weights != 1).any():
            empty = self._graph.run({"input_ids": self.tokenizer([""]).ids})
            embeds = weigh(weighting, embeds, weights, empty)
        return embeds.reshape(len(texts), -1, embeds.shape[-1]), truncated

    def close(self) -> None:
        self._graph.close()
