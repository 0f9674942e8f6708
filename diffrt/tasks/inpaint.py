"""Inpainting: what a mask covers is drawn anew, the rest stays.

A UNet made for it is told of the mask and of the rest of the picture in extra channels (Rombach et al. 2022,
arXiv:2112.10752, section 4.5). Any other one is led: after every evaluation what is not covered is put back, noised as
far as the run then is (Avrahami et al. 2022, Blended Latent Diffusion, arXiv:2206.02779, algorithm 1).
"""

from collections.abc import Callable, Generator

import numpy as np

from diffrt import noise
from diffrt.brownian import row_noise
from diffrt.denoise import Step, noised, start
from diffrt.errors import InvalidArgument
from diffrt.request import F32, Request
from diffrt.schedulers import Scheduler, Table
from diffrt.tasks.shared import (
    Output,
    Parts,
    encode_pictures,
    encode_words,
    finish,
    partial_table,
    steps,
    telling,
    unit_noise,
)


def inpaint(request: Request, scheduler: Scheduler, parts: Parts) -> Generator[Step, None, Output]:
    """Yield every step, return the output."""
    table = partial_table(scheduler, request)
    if table is None:
        n = request.num_inference_steps
        raise InvalidArgument(f"strength {request.strength:g} of {n} steps leaves none: give more of either")
    words = encode_words(request, parts)

    image, mask = request.image, request.mask
    assert image is not None and mask is not None
    told = parts.denoiser.channels > request.latent_shape[0]
    streams = request.streams()
    original = None
    if not told or request.strength < 1:
        original = encode_pictures(image, request, parts, streams)
    z = unit_noise(request, streams)
    # the reference draws for the covered picture whatever the UNet
    rest = encode_pictures(image * (mask < 0.5), request, parts, streams) if told else None
    if rest is None:
        noise.randn(streams, request.latent_shape)
    parts.done(parts.encoder)

    small = mask[:, :, :: parts.denoiser.factor, :: parts.denoiser.factor]  # [1 or P,1,h,w]
    small = small.repeat(len(z) // len(small), axis=0)
    model = settle = None
    if rest is not None:
        model = telling(parts.denoiser, np.concatenate([small, rest], axis=1))
    elif original is not None:
        settle = put_back(table, original, small, z)

    x = start(table, z, original if request.strength < 1 else None)
    draw = row_noise(table, streams, request.seeds, request.rng, request.latent_shape)
    for step in steps(table, words, request, parts, x, draw, model, settle):
        yield step
    return finish(request, parts, scheduler, words, step.latents)


def put_back(table: Table, original: F32, mask: F32, z: F32) -> Callable[[int, F32], F32]:
    """What settles x after evaluation i: outside the mask the original, with as much of the noise z as x then has."""

    def settle(i: int, x: F32) -> F32:
        known = original if i + 1 == table.evals else noised(table, i + 1, original, z)
        return (1 - mask) * known + mask * x

    return settle
