"""What every task has in common: the parts of a model, the words at its start and the pictures at its end."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from diffrt import image, noise
from diffrt.components.denoiser import Denoiser
from diffrt.components.pixels import Pixels
from diffrt.components.text_encoder import TextEncoders
from diffrt.components.vae import Decoder, Encoder
from diffrt.denoise import Colours
from diffrt.errors import InvalidArgument
from diffrt.guidance import Conditioned, Conditions, Model, factors, guide
from diffrt.prompting import MOST_CHUNKS, Text
from diffrt.request import F32, Request
from diffrt.schedulers import Scheduler, Table

EMBEDS = "encoder_hidden_states"  # the denoiser's input that is made of a prompt's tokens


class Part(Protocol):
    def close(self) -> None: ...


@dataclass(frozen=True, eq=False)
class Parts:
    """The components of a model. `model` is the name written into the parameters."""

    text_encoder: TextEncoders | None  # None: it takes no prompt
    denoiser: Denoiser
    encoder: Encoder | None  # None: it takes no picture
    decoder: Decoder | Pixels
    colours: Colours | None
    model: str
    keep: bool  # graphs stay open between calls

    @property
    def all(self) -> tuple[Part, ...]:
        return tuple(filter(None, (self.text_encoder, self.encoder, self.denoiser, self.decoder)))

    def done(self, part: Part | None) -> None:
        """Its work in this call is over: where memory is short, free it."""
        if part is not None and not self.keep:
            part.close()


@dataclass(frozen=True, eq=False)
class Output:
    """B pictures and all that can be passed into another call."""

    images: list[Image] | NDArray[np.float32]  # [B] PIL; [B,H,W,3] f32 in [0,1]; or the latents [B,C,h,w] f32
    latents: F32  # [B,C,h,w] as they were decoded
    prompt_embeds: F32 | None  # [P,S,D]; None where a prompt holds AND, and without prompts
    negative_prompt_embeds: F32 | None  # [P,S,D]; None without guidance
    seeds: list[int]  # [B]
    parameters: list[dict[str, Any]]  # [B] what made each picture, as JSON values
    truncated: list[str]  # per prompt and negative prompt that was too long, the end that was cut off


@dataclass(frozen=True, eq=False)
class Words:
    """What the prompts say, in numbers."""

    conditions: Conditions  # [K*P,...] the first ones of all prompts, then the second ones
    shares: F32  # [K,P] the weight of each
    negative: Conditions | None  # [P,...]; None without guidance
    chunks: int  # of the text encoder's length that S is long
    truncated: list[str]

    def each(self, request: Request) -> tuple[Conditions, Conditions | None, F32]:
        """What guides each picture: conditions [K*B,...], negative [B,...], scale [K,B]. Pictures of a prompt lie
        side by side."""
        count = request.num_images_per_prompt
        said, negative = (repeated(each, count) for each in (self.conditions, self.negative or {}))
        return said, negative or None, request.guidance_scale * self.shares.repeat(count, axis=1)


def repeated(conditions: Conditions, count: int) -> Conditions:
    return {name: array.repeat(count, axis=0) for name, array in conditions.items()}


def encode_words(request: Request, parts: Parts) -> Words:
    encoder = parts.text_encoder
    assert encoder is not None
    truncated: list[str] = []
    given, negative = request.prompt_embeds, request.negative_prompt_embeds if request.guided else None
    texts = [condition.text for row in request.conditions for condition in row]
    negative_texts = request.negative_texts if request.guided and negative is None else ()
    lengths = [each.shape[1] for each in (given, negative) if each is not None]
    chunks = whole_chunks(request.chunks, [*texts, *negative_texts], encoder, lengths)
    said: list[Conditions] = []
    for embeds, words in ((given, texts), (negative, negative_texts)):
        if embeds is not None:
            said.append({EMBEDS: embeds})
        elif words:
            encoded, cut = encoder(words, chunks, request.weighting)
            truncated += filter(None, cut)
            said.append(encoded)
    parts.done(encoder)
    shares = [[condition.weight for condition in row] for row in request.conditions] or [[1.0] * len(said[0][EMBEDS])]
    return Words(said[0], np.array(shares, np.float32), said[1] if len(said) > 1 else None, chunks, truncated)


def guided_model(model: Conditioned, words: Words, request: Request, table: Table) -> Model:
    """What the run evaluates: the model told of the words, as closely guided as asked in each row of the table."""
    by_row = factors(table, request.guidance_interval, request.cfg_plus_plus) if request.guided else None
    return guide(model, *words.each(request), by_row, request.guidance_rescale)


def whole_chunks(asked: int | str, texts: Sequence[Text], encoder: TextEncoders, lengths: Sequence[int] = ()) -> int:
    """How many chunks every text is to fill: with "auto" those of the longest, or of embeddings of given lengths."""
    if not isinstance(asked, str):
        return asked
    chunks = max([encoder.tokenizer.chunks(texts), *(length // encoder.tokenizer.max_length for length in lengths)])
    if chunks > MOST_CHUNKS:
        raise InvalidArgument(f"the longest prompt fills {chunks} chunks of text; at most {MOST_CHUNKS} are allowed")
    return chunks


def encode_pictures(pictures: F32, request: Request, parts: Parts, streams: Sequence[noise.Stream]) -> F32:
    """A draw from each picture's posterior: [1 or P,3,H,W] in [-1,1] -> [B,C,h,w]."""
    assert parts.encoder is not None
    mean, std = parts.encoder(pictures)
    count = len(streams) // len(pictures)
    return mean.repeat(count, axis=0) + std.repeat(count, axis=0) * noise.randn(streams, request.latent_shape)


def partial_table(scheduler: Scheduler, request: Request) -> Table | None:
    """The last strength * steps of the run, rounded down; None where that is none."""
    skip = request.num_inference_steps - int(request.num_inference_steps * request.strength)
    if skip == request.num_inference_steps:
        return None
    return scheduler.table(request.num_inference_steps, eta=request.eta, skip=skip)


def finish(request: Request, parts: Parts, scheduler: Scheduler, words: Words | None, latents: F32) -> Output:
    parts.done(parts.denoiser)
    images: Any = latents
    if request.output_type != "latent":
        decoded = parts.decoder(latents)
        images = image.to_pil(image.to_uint8(decoded)) if request.output_type == "pil" else _unit(decoded)
        parts.done(parts.decoder)
    return Output(
        images=images,
        latents=latents,
        prompt_embeds=words.conditions[EMBEDS] if words and len(words.shares) == 1 else None,
        negative_prompt_embeds=words.negative[EMBEDS] if words and words.negative else None,
        seeds=list(request.seeds),
        parameters=request.parameters(type(scheduler).__name__, parts.model, words.chunks if words else 1),
        truncated=words.truncated if words else [],
    )


def _unit(decoded: F32) -> F32:
    """[B,3,H,W] in [-1,1] -> [B,H,W,3] in [0,1]."""
    return np.clip(decoded * np.float32(0.5) + np.float32(0.5), 0, 1).transpose(0, 2, 3, 1)
