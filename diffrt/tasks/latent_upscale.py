"""Upscaling of latents: they are drawn anew at twice their size, told of the smaller ones (Crowson 2022)."""

from collections.abc import Generator
from dataclasses import replace

from diffrt.brownian import row_noise
from diffrt.denoise import Step, denoise, start
from diffrt.errors import InvalidArgument
from diffrt.picture_tasks import DOUBLED
from diffrt.prompting import Condition
from diffrt.request import Request
from diffrt.schedulers import Scheduler
from diffrt.tasks.shared import (
    Output,
    Parts,
    encode_pictures,
    encode_words,
    finish,
    guided_model,
    telling,
    unit_noise,
    whole_run,
)

LEAST = 16  # latents of the result each way, which the model halves three times


def latent_upscale(request: Request, scheduler: Scheduler, parts: Parts) -> Generator[Step, None, Output]:
    """Yield every step, return the output."""
    if min(request.latent_shape[1:]) < LEAST:
        least = LEAST * parts.denoiser.factor
        raise InvalidArgument(
            f"the result has {request.height}x{request.width} pixels (HxW): give an image for {least}x{least} or more"
        )
    table = whole_run(scheduler, request)
    words = encode_words(unsaid(request) if request.guidance_scale == 0 else request, parts)

    streams = request.streams()
    smaller = request.image_latents
    if smaller is None:
        assert request.image is not None
        smaller = encode_pictures(request.image, request, parts, streams)
    parts.done(parts.encoder)
    z = unit_noise(request, streams)

    seen = smaller.repeat(DOUBLED, axis=2).repeat(DOUBLED, axis=3)
    model = guided_model(telling(parts.denoiser, seen), words, request, table)
    x = start(table, z)
    draw = row_noise(table, streams, request.seeds, request.rng, request.latent_shape)
    for step in denoise(table, model, x, draw, parts.colours):
        yield step
    return finish(request, parts, scheduler, words, step.latents)


def unsaid(request: Request) -> Request:
    """Without its prompts: at a guidance_scale of 0 they have no say."""
    return replace(request, conditions=((Condition(""),) * len(request.conditions[0]),) if request.conditions else ())
