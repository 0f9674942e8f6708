"""The parts of a model in JAX, as the tasks know them: NumPy arrays in and out, channels first."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from diffrt.errors import NumericalError
from diffrt.flax.checkpoint import Checkpoint, Params
from diffrt.flax.placement import Placement
from diffrt.flax.programs import decode_program, embed_program, encode_program
from diffrt.flax.weights import checked_dtype
from diffrt.guidance import Conditions
from diffrt.prompting import Text
from diffrt.tasks.shared import EMBEDS
from diffrt.weighting import weigh

F32 = NDArray[np.float32]


def channels_last(x: Any) -> Any:  # [B,C,H,W] -> [B,H,W,C]
    return np.moveaxis(x, 1, -1)


def channels_first(x: Any) -> Any:
    return np.ascontiguousarray(np.moveaxis(x, -1, 1))


def finite(part: str, x: F32) -> F32:
    if not np.isfinite(x).all():
        raise NumericalError(f"{part} gave NaN or infinity: load the model with dtype=jnp.float32")
    return x


class Model:
    """A checkpoint's networks with their parameters, on devices."""

    def __init__(self, checkpoint: Checkpoint, dtype: Any, placement: Placement) -> None:
        self.networks, self.dtype, self.placement = checkpoint.networks, checked_dtype(dtype), placement
        self.tokenizer = checkpoint.tokenizer()
        self.channels = self.networks.unet.in_channels
        self.factor = checkpoint.manifest.latents["scale_factor"]

        def place(part: str) -> Any:
            return lambda name, values: jax.device_put(values, placement.parameter(part, name, values.shape))

        self.params: Params = checkpoint.load(self.dtype, place)

    def part(self, name: str) -> Params:
        return {name: self.params[name]}


class TextEncoder:
    def __init__(self, model: Model) -> None:
        self._model, self.tokenizer, self.max_length = model, model.tokenizer, model.tokenizer.max_length

    def chunks(self, texts: Sequence[Text], beside: Sequence[Sequence[Text] | None] = ()) -> int:
        """How many the longest text fills. beside: what further encoders read, of which there are none."""
        return self.tokenizer.chunks(texts)

    def __call__(
        self,
        texts: Sequence[Text],
        chunks: int = 1,
        weighting: str | None = None,
        beside: Sequence[Sequence[Text] | None] = (),
    ) -> tuple[Conditions, tuple[str, ...]]:
        """[B] texts -> encoder_hidden_states [B,S,D] f32, and per text the end of it that did not fit. S is
        chunks * max_length. beside: as in chunks."""
        ids, weights, truncated = self.tokenizer(texts, chunks)
        embeds = self._embed(ids)
        if weighting is not None and (weights != 1).any():
            embeds = weigh(weighting, embeds, weights, self._embed(self.tokenizer([""]).ids))
        return {EMBEDS: embeds.reshape(len(texts), -1, embeds.shape[-1])}, truncated

    def _embed(self, ids: NDArray[np.int64]) -> F32:
        m = self._model
        placed = m.placement.padded(ids.astype(np.int32))
        out = embed_program(m.networks, m.placement, m.part("text_encoder"), placed)
        return finite("text_encoder", np.asarray(out)[: len(ids)])


class Encoder:
    def __init__(self, model: Model) -> None:
        self._model = model

    def __call__(self, pictures: F32) -> tuple[F32, F32]:  # [B,3,H,W] in [-1,1] -> [B,C,h,w] twice
        m = self._model
        placed = m.placement.padded(channels_last(pictures))
        out = encode_program(m.networks, m.dtype, m.placement, m.part("vae"), placed)
        mean, std = (finite("vae", channels_first(each)[: len(pictures)]) for each in out)
        return mean, std


class Decoder:
    def __init__(self, model: Model) -> None:
        self._model = model

    def __call__(self, latents: F32) -> F32:  # [B,C,h,w] -> [B,3,H,W], nominally in [-1,1]
        m = self._model
        placed = m.placement.padded(channels_last(latents))
        out = decode_program(m.networks, m.dtype, m.placement, m.part("vae"), placed)
        return finite("vae", channels_first(out)[: len(latents)])
