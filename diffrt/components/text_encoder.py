"""The text encoders: prompts to what the denoiser is told of them, weighted where they say so."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest

import numpy as np

from diffrt.bundle import Bundle
from diffrt.components.graph import Graph
from diffrt.components.tokenizer import Tokenizer
from diffrt.guidance import Conditions
from diffrt.prompting import Text
from diffrt.providers import Provider
from diffrt.weighting import F32, weigh


class TextEncoders:
    """All those of a bundle. Raises BundleError on construction where a tokenizer of it cannot be used."""

    def __init__(self, bundle: Bundle, provider: Provider) -> None:
        manifest = bundle.manifest
        self._conditions = manifest.conditions
        self._tokenizers = {name: Tokenizer.from_bundle(bundle.root, manifest, name) for name in manifest.tokenizers}
        self._graphs = {name: Graph(bundle, name, provider) for name in manifest.tokenizers}
        self.max_length = next(iter(self._tokenizers.values())).max_length  # of the first: what a chunk is

    def chunks(self, texts: Sequence[Text], beside: Sequence[Sequence[Text] | None] = ()) -> int:
        """How many the longest text fills: those that all encoders read as the first one cuts them, and others as those
        do that read them."""
        read = zip(self._tokenizers.values(), (texts, *beside), strict=False)
        return max(tokenizer.chunks(own) for tokenizer, own in read if own is not None)

    def __call__(
        self,
        texts: Sequence[Text],
        chunks: int = 1,
        weighting: str | None = None,
        beside: Sequence[Sequence[Text] | None] = (),
    ) -> tuple[Conditions, tuple[str, ...]]:
        """[B] texts -> inputs of the denoiser, of each token [B,S,D] and of each text [B,D] f32, and per text the end
        of it that did not fit. S is chunks * max_length; what is said of a whole text is said of its first chunk.

        beside: what the second encoder reads, and the third; None, or nothing, where that is the same."""
        outputs: dict[str, F32] = {}
        truncated: tuple[str, ...] = ()
        for (name, tokenizer), own in zip_longest(self._tokenizers.items(), (texts, *beside)[: len(self._tokenizers)]):
            ids, weights, cut = tokenizer(texts if own is None else own, chunks)
            truncated += cut if own is not None else ()
            made = self._graphs[name].run_all({"input_ids": ids})
            empty = None
            if weighting is not None and (weights != 1).any():
                empty = self._graphs[name].run_all({"input_ids": tokenizer([""]).ids})
            for output, array in made.items():
                if array.ndim == 3:
                    said = array if empty is None else weigh(str(weighting), array, weights, empty[output])
                    outputs[f"{name}.{output}"] = said.reshape(len(texts), -1, array.shape[-1])
                else:
                    outputs[f"{name}.{output}"] = array.reshape(len(texts), -1, array.shape[-1])[:, 0]
        return joined(self._conditions, outputs), truncated

    def close(self) -> None:
        for graph in self._graphs.values():
            graph.close()


def joined(conditions: Mapping[str, Sequence[str]], outputs: Mapping[str, F32]) -> Conditions:
    """The denoiser's inputs: outputs of the encoders, side by side where it is told of several."""
    return {name: np.concatenate([outputs[each] for each in of], axis=-1) for name, of in conditions.items()}
