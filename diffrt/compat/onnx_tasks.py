"""Where diffusers' ONNX pipelines do otherwise than its others: how noisy a picture is to begin with, and which mask
pixel stands for a latent's."""

from collections.abc import Generator

import numpy as np

from diffrt import noise
from diffrt.brownian import row_noise
from diffrt.denoise import Step, start
from diffrt.errors import InvalidArgument
from diffrt.request import F32, Request
from diffrt.schedulers import Scheduler
from diffrt.tasks.shared import (
    Output,
    Parts,
    encode_pictures,
    encode_words,
    finish,
    steps,
    telling,
    unit_noise,
    whole_run,
)


def image_to_image(request: Request, scheduler: Scheduler, parts: Parts) -> Generator[Step, None, Output]:
    """The run begins `steps_offset` evaluations after the time whose noise the picture is given."""
    assert request.image is not None
    n, offset = request.num_inference_steps, getattr(scheduler, "steps_offset", 0)
    left = min(int(n * request.strength) + offset, n)
    skip = n - left + offset
    if not 0 < left <= n or skip >= n:
        raise InvalidArgument(f"strength {request.strength:g} of {n} steps leaves none: give more of either")
    begin = float(scheduler.table(n, eta=request.eta).t[-left])
    table = scheduler.table(n, eta=request.eta, skip=skip)
    words = encode_words(request, parts)

    streams = request.streams()
    latents = encode_pictures(request.image, request, parts, streams)
    parts.done(parts.encoder)
    x = scheduler.add_noise(latents, noise.randn(streams, request.latent_shape), begin)
    draw = row_noise(table, streams, request.seeds, request.rng, request.latent_shape)
    for step in steps(table, words, request, parts, x, draw):
        yield step
    return finish(request, parts, scheduler, words, step.latents)


def inpaint(
    mask: F32, rest: F32, request: Request, scheduler: Scheduler, parts: Parts
) -> Generator[Step, None, Output]:
    """mask [1,1,h,w], 1 where to paint; rest [1,3,H,W] in [-1,1] is what it leaves of the picture."""
    if parts.denoiser.channels == request.latent_shape[0]:
        raise InvalidArgument("the UNet is not made for inpainting: use diffrt.load, which leads any other one")
    table = whole_run(scheduler, request)
    words = encode_words(request, parts)

    streams = request.streams()
    z = unit_noise(request, streams)
    latents = encode_pictures(rest, request, parts, streams)
    parts.done(parts.encoder)
    beside = np.concatenate([mask.repeat(len(z), axis=0), latents], axis=1)
    model = telling(parts.denoiser, beside)
    draw = row_noise(table, streams, request.seeds, request.rng, request.latent_shape)
    for step in steps(table, words, request, parts, start(table, z), draw, model):
        yield step
    return finish(request, parts, scheduler, words, step.latents)
