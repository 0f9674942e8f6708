"""What each task starts from; then one loop on the devices runs them all. The same story as in diffrt/tasks."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffrt import noise
from diffrt.brownian import row_noise
from diffrt.denoise import Step, start
from diffrt.errors import InvalidArgument
from diffrt.flax.parts import F32, Model, channels_first, channels_last, finite
from diffrt.flax.programs import Condition, Keep, denoise_program
from diffrt.flax.rows import SLOTS, bucket, rows_of, segment
from diffrt.guidance import factors
from diffrt.request import Request
from diffrt.schedulers import Scheduler, Table
from diffrt.tasks.shared import (
    EMBEDS,
    Output,
    Parts,
    Words,
    encode_pictures,
    encode_words,
    finish,
    partial_table,
    unit_noise,
    whole_run,
)

Streams = Sequence[noise.Stream]


@dataclass(frozen=True, eq=False)
class Start:
    """table None: no step is run. All arrays [B,C,h,w]."""

    table: Table | None
    x: F32
    beside: F32 | None = None  # [B,1+C,h,w]
    keep: tuple[F32, F32, F32] | None = None  # mask [B,1,h,w], original, noise


def text_to_image(request: Request, scheduler: Scheduler, parts: Parts, streams: Streams) -> Start:
    table = whole_run(scheduler, request)
    return Start(table, start(table, unit_noise(request, streams)))


def image_to_image(request: Request, scheduler: Scheduler, parts: Parts, streams: Streams) -> Start:
    table = partial_table(scheduler, request)
    latents = request.image_latents
    if latents is None:
        assert request.image is not None
        latents = encode_pictures(request.image, request, parts, streams)
    if table is None or request.denoising_start is not None:
        return Start(table, latents)
    return Start(table, start(table, unit_noise(request, streams), latents))


def inpaint(request: Request, scheduler: Scheduler, parts: Parts, streams: Streams) -> Start:
    table, image, mask = partial_table(scheduler, request), request.image, request.mask
    if table is None:
        steps = request.num_inference_steps
        raise InvalidArgument(f"strength {request.strength:g} of {steps} steps leaves none: give more of either")
    assert image is not None and mask is not None
    told = parts.denoiser.channels > request.latent_shape[0]
    original = None
    if not told or request.strength < 1:
        original = encode_pictures(image, request, parts, streams)
    z = unit_noise(request, streams)
    rest = encode_pictures(image * (mask < 0.5), request, parts, streams) if told else None
    if rest is None:
        noise.randn(streams, request.latent_shape)  # drawn for the covered picture whatever the UNet
    small = mask[:, :, :: parts.denoiser.factor, :: parts.denoiser.factor]
    small = small.repeat(len(z) // len(small), axis=0)
    x = start(table, z, original if request.strength < 1 else None)
    if rest is not None:
        return Start(table, x, beside=np.concatenate([small, rest], axis=1))
    assert original is not None
    return Start(table, x, keep=(small, original, z))


TASKS: dict[str, Callable[[Request, Scheduler, Parts, Streams], Start]] = {
    "text_to_image": text_to_image,
    "image_to_image": image_to_image,
    "inpaint": inpaint,
}


def run(
    request: Request, scheduler: Scheduler, parts: Parts, model: Model, every: int | None
) -> Generator[Step, None, Output]:
    """Yield after every so many steps, or with None at the end alone; return the output."""
    words = encode_words(request, parts)
    streams = request.streams()
    begun = TASKS[request.task](request, scheduler, parts, streams)
    latents = begun.x
    if begun.table is not None:
        for step in denoise(begun, begun.table, words, request, parts, model, streams, every):
            yield step
            latents = step.latents
    return finish(request, parts, scheduler, words, latents)


def denoise(
    begun: Start,
    table: Table,
    words: Words,
    request: Request,
    parts: Parts,
    model: Model,
    streams: Streams,
    every: int | None,
) -> Generator[Step, None, None]:
    placed, batch = model.placement.padded, len(begun.x)
    by_row = factors(table, request.guidance_interval, request.cfg_plus_plus) if request.guided else None
    rows = rows_of(table, by_row, request.guidance_rescale)
    ends = np.flatnonzero(np.append(table.step_of[1:] != table.step_of[:-1], True)) + 1  # rows when a step is over
    stops = ends[-1:] if every is None else np.unique([*ends[every - 1 :: every], ends[-1]])
    starts = np.append(0, stops[:-1])
    length = bucket(int((stops - starts).max()))  # empty rows cost next to nothing, another shape a compilation
    slots = placed(np.stack([channels_last(begun.x)] + [np.zeros_like(channels_last(begun.x))] * (SLOTS - 1)), 1)
    condition = condition_of(words, request, begun.beside, placed)
    keep = None if begun.keep is None else Keep(*(placed(channels_last(each)) for each in begun.keep))
    draw = row_noise(table, streams, request.seeds, request.rng, request.latent_shape)
    silence = jnp.zeros((length, *slots.shape[1:]), device=model.placement.batch(1))
    for first, stop in zip(starts, stops, strict=True):
        drawn = silence
        if table.noisy[first:stop].any():
            z = np.zeros((length, *begun.x.shape), np.float32)
            for i in np.flatnonzero(table.noisy[first:stop]):
                z[i] = draw(first + i)
            drawn = placed(np.moveaxis(z, 2, -1), 1)
        part = model.placement.everywhere(segment(rows, first, stop, length))
        slots = denoise_program(
            model.networks, model.dtype, model.placement, model.part("unet"), part, slots, condition, drawn, keep
        )
        x, seen = (finite("unet", channels_first(slots[i])[:batch]) for i in (0, -1))
        last = stop - 1
        yield Step(int(table.step_of[last]), table.steps, float(table.t[last]), x, seen, parts.colours)


def condition_of(words: Words, request: Request, beside: F32 | None, placed: Callable[..., Any]) -> Condition:
    conditions, without, scale = words.each(request)  # [K*B,...], [B,...], [K,B]
    embeds, negative = conditions[EMBEDS], None if without is None else without[EMBEDS]  # [K*B,S,D], [B,S,D]
    batch = len(embeds) // len(scale)
    each = embeds.reshape(len(scale), batch, *embeds.shape[1:])
    if negative is None:
        each, scale = each[:1], scale[:0]
    elif negative.shape[1:] != embeds.shape[1:]:
        raise InvalidArgument(
            f"the embeddings of the prompt have the shape {list(embeds.shape)}, those of the negative prompt "
            f"{list(negative.shape)}: pass negative_prompt_embeds of the same shape, or chunks='auto'"
        )
    else:
        each = np.concatenate([negative[None], each])
    return Condition(
        placed(np.swapaxes(each, 0, 1)),
        placed(np.ascontiguousarray(scale.T)),
        None if beside is None else placed(channels_last(beside)),
    )
