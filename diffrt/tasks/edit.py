"""Editing by instruction: a picture is drawn anew, told of the picture and of what to change in it (Brooks et al. 2022,
InstructPix2Pix, arXiv:2211.09800)."""

from collections.abc import Generator

import numpy as np

from diffrt.brownian import row_noise
from diffrt.components.denoiser import Denoiser
from diffrt.denoise import Step, denoise, start
from diffrt.guidance import Model, guide, joined
from diffrt.request import F32, Request
from diffrt.schedulers import Scheduler
from diffrt.tasks.shared import Output, Parts, Words, encode_words, finish, telling, unit_noise, whole_run


def edit(request: Request, scheduler: Scheduler, parts: Parts) -> Generator[Step, None, Output]:
    """Yield every step, return the output."""
    table = whole_run(scheduler, request)
    words = encode_words(request, parts)

    streams = request.streams()
    seen = request.image_latents
    if seen is None:
        assert request.image is not None and parts.encoder is not None
        seen, _ = parts.encoder(request.image)  # the posterior's mean: nothing is drawn
        seen = seen.repeat(len(streams) // len(seen), axis=0)
    parts.done(parts.encoder)
    z = unit_noise(request, streams)

    model = guided_twice(parts.denoiser, seen, words, request)
    x = start(table, z)
    draw = row_noise(table, streams, request.seeds, request.rng, request.latent_shape)
    for step in denoise(table, model, x, draw, parts.colours):
        yield step
    return finish(request, parts, scheduler, words, step.latents)


def guided_twice(denoiser: Denoiser, seen: F32, words: Words, request: Request) -> Model:
    """The model told of a picture, [B,C,h,w], and of words, guided toward each by a scale of its own (eq. 3):

    m = m(nothing) + image_scale * (m(picture) - m(nothing)) + scale * (m(picture, words) - m(picture))

    That is guidance by two conditions: by the picture at image_scale - scale, and by both at scale.
    """
    said, negative, scale = words.each(request)  # [B,...], [B,...], [1,B]
    if negative is None:
        return guide(telling(denoiser, seen), said, None, 1.0)
    both = {name: joined(name, negative[name], array) for name, array in said.items()}
    beside = np.concatenate([np.zeros_like(seen), seen, seen])
    scales = np.concatenate([np.float32(request.image_guidance_scale) - scale, scale])
    return guide(telling(denoiser, beside), both, negative, scales)
