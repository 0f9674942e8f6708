"""What every task has in common: the parts of a model, the words at its start and the pictures at its end."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from diffrt import image, noise
from diffrt.components.denoiser import Denoiser
from diffrt.components.image_encoder import ImageEncoder
from diffrt.components.pixels import Pixels
from diffrt.components.safety import SafetyChecker
from diffrt.components.step import StepGraph
from diffrt.components.text_encoder import TextEncoders
from diffrt.components.vae import Decoder, Encoder
from diffrt.denoise import Colours, Settle, Step, denoise
from diffrt.denoise_held import denoise_held, misfit
from diffrt.errors import InvalidArgument
from diffrt.further_prompts import beside
from diffrt.guidance import Conditioned, Conditions, Model, factors, guide, mixtures
from diffrt.levels import of_levels
from diffrt.own_sizes import covering
from diffrt.prompting import MOST_CHUNKS, Text
from diffrt.request import F32, Request
from diffrt.schedulers import Scheduler, Table

EMBEDS = "encoder_hidden_states"  # the denoiser's input that is made of a prompt's tokens
POOLED = "text_embeds"  # and that of the whole prompt, where there is one
CLASSES = "class_labels"  # of a model that draws classes


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
    safety: SafetyChecker | None = None
    image_encoder: ImageEncoder | None = None  # in place of the text encoder
    low_res_scheduler: Scheduler | None = None  # how noisy a picture becomes that the denoiser is told of
    step: StepGraph | None = None  # None: the loop is over the denoiser
    step_only: bool = False  # what it does not do is an error, and not left to the denoiser

    @property
    def _each(self) -> tuple[Part | None, ...]:
        encoders = (self.text_encoder, self.image_encoder, self.encoder)
        return (*encoders, self.denoiser, self.step, self.decoder, self.safety)

    @property
    def all(self) -> tuple[Part, ...]:
        return tuple(filter(None, self._each))

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
    pooled_prompt_embeds: F32 | None  # [P,D] of a model that is told of whole prompts
    negative_pooled_prompt_embeds: F32 | None  # [P,D]
    seeds: list[int]  # [B]
    parameters: list[dict[str, Any]]  # [B] what made each picture, as JSON values
    truncated: list[str]  # per prompt and negative prompt that was too long, the end that was cut off
    nsfw_content_detected: list[bool] | None = None  # [B] the safety checker's verdict; None: none was run


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
    """Of a model that takes no prompt, what else it is told."""
    encoder = parts.text_encoder
    if encoder is None:
        return _without_words(request) if parts.image_encoder is None else _seen(request, parts, parts.image_encoder)
    truncated: list[str] = []
    given, negative = request.prompt_embeds, request.negative_prompt_embeds if request.guided else None
    texts = [condition.text for row in request.conditions for condition in row]
    zero = request.guided and request.zero_negative
    negative_texts = request.negative_texts if request.guided and negative is None and not zero else ()
    lengths = [each.shape[1] for each in (given, negative) if each is not None]
    others, negative_others = (
        beside(request.further, name, request.weighting) for name in ("prompt", "negative_prompt")
    )
    both = ((texts, others), (negative_texts, negative_others if negative_texts else ()))
    chunks = whole_chunks(request.chunks, both, encoder, lengths)
    said: list[dict[str, NDArray[Any]]] = []
    for embeds, pooled, words, further in (
        (given, request.pooled_prompt_embeds, texts, others),
        (negative, request.negative_pooled_prompt_embeds, negative_texts, negative_others),
    ):
        if embeds is not None:
            said.append({EMBEDS: embeds} | ({} if pooled is None else {POOLED: pooled}))
        elif words:
            encoded, cut = encoder(words, chunks, request.weighting, further)
            truncated += filter(None, cut)
            said.append(dict(encoded))
    parts.done(encoder)
    if zero:
        said.append({name: np.zeros_like(array[: len(request.negative_prompts)]) for name, array in said[0].items()})
    for told, brought, half in zip(request.told, request.given, said, strict=False):
        rows = len(half[EMBEDS])
        half |= {name: array.repeat(rows, axis=0) for name, array in told.items()}
        half |= {name: np.concatenate([array] * (rows // len(array))) for name, array in brought.items()}
    shares = [[condition.weight for condition in row] for row in request.conditions] or [[1.0] * len(said[0][EMBEDS])]
    return Words(said[0], np.array(shares, np.float32), said[1] if len(said) > 1 else None, chunks, truncated)


def _without_words(request: Request) -> Words:
    labels = np.array(request.class_labels, np.int64)
    halves = [{CLASSES: labels}, {CLASSES: np.full_like(labels, request.classes)}] if len(labels) else [{}, {}]
    said, negative = ({**half, **given} for half, given in zip(halves, request.given, strict=True))
    rows = len(next(iter(said.values()), ()))
    return Words(said, np.ones((1, rows), np.float32), (negative or None) if request.guided else None, 1, [])


def _seen(request: Request, parts: Parts, encoder: ImageEncoder) -> Words:
    """What is in a picture, in place of words; its negative half is zero."""
    said = encoder(request.seen)
    parts.done(encoder)
    negative = {name: np.zeros_like(array) for name, array in said.items()}
    return Words(said, np.ones((1, len(request.seen)), np.float32), negative if request.guided else None, 1, [])


def steps(
    table: Table,
    words: Words,
    request: Request,
    parts: Parts,
    x: F32,
    noise: Callable[[int], F32],
    model: Conditioned | None = None,
    settle: Settle | None = None,
    correcting: Callable[[Model], Settle] | None = None,
) -> Iterator[Step]:
    """The run, over the step graph where there is one that does all of it, else over the denoiser, or over `model` in
    its place. `correcting` makes of what is evaluated what corrects x; the rest is as in diffrt.denoise.denoise."""
    if parts.step is not None:
        beyond = misfit(table) or ("guidance_rescale" if request.guided and request.guidance_rescale else "")
        beyond = "inpainting" if model is not None or settle is not None else beyond
        beyond = "correction" if correcting is not None else beyond
        beyond = "denoiser that is told sigma" if request.takes_sigma else beyond
        if not beyond:
            conditions, negative, scale = words.each(request)
            mixture = mixtures(conditions, negative, scale, len(x), _factors(request, table))
            return denoise_held(table, parts.step, mixture, x, noise, parts.colours)
        if parts.step_only:
            raise InvalidArgument(f"the step graph does no {beyond}: load with loop='auto' or 'host'")
    guided = guided_model(model or parts.denoiser, words, request, table)
    return denoise(table, guided, x, noise, parts.colours, settle, correcting(guided) if correcting else None)


def guided_model(model: Conditioned, words: Words, request: Request, table: Table) -> Model:
    """What the run evaluates: the model told of the words, as closely guided as asked in each row of the table."""
    guided = guide(model, *words.each(request), _factors(request, table), request.guidance_rescale)
    return of_levels(guided, table) if request.takes_sigma else guided


def _factors(request: Request, table: Table) -> list[float | None] | None:
    return factors(table, request.guidance_interval, request.cfg_plus_plus) if request.guided else None


def telling(denoiser: Denoiser, beside: F32) -> Conditioned:
    """A denoiser that is given more channels, [B,N,h,w], beside the latents."""

    def model(x: F32, t: float, conditions: Conditions) -> F32:
        halves = len(x) // len(beside)  # with guidance the batch is there twice
        return denoiser(np.concatenate([x, np.tile(beside, (halves, 1, 1, 1))], axis=1), t, conditions)

    return model


def whole_chunks(
    asked: int | str,
    read: Sequence[tuple[Sequence[Text], Sequence[Sequence[Text] | None]]],
    encoder: TextEncoders,
    lengths: Sequence[int] = (),
) -> int:
    """How many chunks every text is to fill: with "auto" those of the longest, or of embeddings of given lengths.
    read: as TextEncoders.chunks takes it, one after another."""
    if not isinstance(asked, str):
        return asked
    chunks = max([*(encoder.chunks(*each) for each in read), *(length // encoder.max_length for length in lengths)])
    if chunks > MOST_CHUNKS:
        raise InvalidArgument(f"the longest prompt fills {chunks} chunks of text; at most {MOST_CHUNKS} are allowed")
    return chunks


def unit_noise(request: Request, streams: Sequence[noise.Stream]) -> F32:
    """What a run begins with, as given or drawn: [B,C,h,w]."""
    return noise.randn(streams, request.latent_shape) if request.latents is None else request.latents


def encode_pictures(pictures: F32, request: Request, parts: Parts, streams: Sequence[noise.Stream]) -> F32:
    """A draw from each picture's posterior: [1 or P,3,H,W] in [-1,1] -> [B,C,h,w]. One source for all results draws
    once for each picture, and none draws for what has no spread."""
    assert parts.encoder is not None
    mean, std = parts.encoder(pictures)
    if not std.any():
        return mean.repeat(len(streams) // len(pictures), axis=0)
    drawn = streams if request.generator is None else streams[: len(pictures)]
    each = len(drawn) // len(pictures)
    latents = mean.repeat(each, axis=0) + std.repeat(each, axis=0) * noise.randn(drawn, mean.shape[1:])
    return latents.repeat(len(streams) // len(drawn), axis=0)


def run_table(scheduler: Scheduler, request: Request, skip: int = 0) -> Table | None:
    """The steps of the run: all but the first `skip`, or those from denoising_start on, up to denoising_end; None where
    that is none. A share of a run ends, and another begins, at the first step of a time below what is left of it."""
    n, start, end = request.num_inference_steps, request.denoising_start, request.denoising_end
    stop, options = n, options_of(scheduler, request)
    if start is not None or end is not None:
        whole = scheduler.table(None if "sigmas" in options else n, **options)
        times = whole.t[np.searchsorted(whole.step_of, np.arange(n))]
        skip = skip if start is None else int(np.sum(times >= _time_left(scheduler, start)))
        stop = n if end is None else int(np.sum(times >= _time_left(scheduler, end)))
    if skip >= stop:
        return None
    table = scheduler.table(None if "sigmas" in options else n, skip=skip, **options)
    return table if stop == n else table.before(stop - skip)


def options_of(scheduler: Scheduler, request: Request) -> dict[str, Any]:
    """Those of the run's table: eta, and of a flow model the levels before they are shifted, and the shift that goes
    with the size of the picture."""
    tokens = math.prod(request.latent_shape[1:]) // request.patch**2
    options: dict[str, Any] = {"eta": request.eta, **scheduler.picture_options(tokens)}
    if request.even_sigmas and "sigmas" in scheduler.options():
        options["sigmas"] = np.linspace(1, 1 / request.num_inference_steps, request.num_inference_steps)
    return options


def whole_run(scheduler: Scheduler, request: Request) -> Table:
    """From noise on, up to denoising_end."""
    table = run_table(scheduler, request)
    if table is None:
        raise InvalidArgument(f"denoising_end {request.denoising_end:g} leaves no step: give more of it, or of steps")
    return table


def _time_left(scheduler: Scheduler, share: float) -> int:
    return round(scheduler.config.get("num_train_timesteps", 1000) * (1 - share))


def partial_table(scheduler: Scheduler, request: Request) -> Table | None:
    """The last strength * steps of the run, rounded as the model's family does, or those from denoising_start on; None
    where that is none."""
    n, share = request.num_inference_steps, request.num_inference_steps * request.strength
    return run_table(scheduler, request, int(n - share) if request.strength_rounds_up else n - int(share))


def finish(request: Request, parts: Parts, scheduler: Scheduler, words: Words, latents: F32) -> Output:
    parts.done(parts.denoiser)
    parts.done(parts.step)
    images: Any = latents
    flags: list[bool] | None = None
    if request.output_type != "latent":
        decoded = parts.decoder(latents)
        parts.done(parts.decoder)
        decoded = decoded if request.asked_size is None else covering(decoded, request.asked_size)
        decoded, flags = checked(decoded, parts)
        images = image.to_pil(image.to_uint8(decoded)) if request.output_type == "pil" else _unit(decoded)
    said: Conditions = words.conditions if len(words.shares) == 1 else {}  # no prompt holds AND
    negative: Conditions = words.negative or {}
    return Output(
        images=images,
        latents=latents,
        prompt_embeds=said.get(EMBEDS),
        negative_prompt_embeds=negative.get(EMBEDS),
        pooled_prompt_embeds=said.get(POOLED),
        negative_pooled_prompt_embeds=negative.get(POOLED),
        seeds=list(request.seeds),
        parameters=request.parameters(type(scheduler).__name__, parts.model, words.chunks),
        truncated=words.truncated,
        nsfw_content_detected=flags,
    )


def checked(decoded: F32, parts: Parts) -> tuple[F32, list[bool] | None]:
    """Pictures [B,3,H,W] in [-1,1], black where the safety checker finds something, and which those are."""
    if parts.safety is None:
        return decoded, None
    flags = parts.safety(image.to_uint8(decoded))
    parts.done(parts.safety)
    return np.where(np.array(flags)[:, None, None, None], np.float32(-1), decoded), flags


def _unit(decoded: F32) -> F32:
    """[B,3,H,W] in [-1,1] -> [B,H,W,3] in [0,1]."""
    return np.clip(decoded * np.float32(0.5) + np.float32(0.5), 0, 1).transpose(0, 2, 3, 1)
