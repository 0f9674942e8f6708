"""Inpainting: what a mask covers is drawn anew, the rest stays.

A model made for it is told of the mask and of the rest of the picture in extra channels (Rombach et al. 2022,
arXiv:2112.10752, section 4.5): of one pixel of the mask for each latent, or of all. Any other one is led: after every
evaluation what is not covered is put back, noised as far as the run then is (Avrahami et al. 2022, Blended Latent
Diffusion, arXiv:2206.02779, algorithm 1).
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
    assert mask is not None
    channels, factor = request.latent_shape[0], parts.denoiser.factor
    beside = parts.denoiser.channels - channels
    told, whole = beside > 0, beside > channels + 1  # of the mask, and of every pixel of it
    if told and image is None:
        raise InvalidArgument("image is latents, and this model is told of the picture around the mask: give a picture")
    streams = request.streams()
    original = request.image_latents
    if image is not None and (not told or whole or request.strength < 1 or request.denoising_start is not None):
        original = encode_pictures(image, request, parts, streams)
    z = unit_noise(request, streams)
    rest = None
    if image is not None and told:
        rest = encode_pictures(image * (mask < 0.5), request, parts, streams)
    elif image is not None:
        noise.randn(streams, request.latent_shape)  # the reference draws for the covered picture whatever the model
    parts.done(parts.encoder)

    mask = mask.repeat(len(z) // len(mask), axis=0)
    small = mask[:, :, ::factor, ::factor]  # [B,1,h,w]
    model = settle = None
    if rest is not None:
        model = telling(parts.denoiser, np.concatenate([every_pixel(mask, factor) if whole else small, rest], axis=1))
    elif original is not None:
        settle = put_back(table, original, small, z)

    if request.denoising_start is not None and original is not None:
        x = original  # as noisy as it is to be
    else:
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


def every_pixel(mask: F32, factor: int) -> F32:  # [B,1,H,W] -> [B,factor**2,h,w]
    """The pixels of each latent side by side."""
    batch, _, height, width = mask.shape
    cells = mask.reshape(batch, height // factor, factor, width // factor, factor)
    return cells.transpose(0, 2, 4, 1, 3).reshape(batch, factor**2, height // factor, width // factor)
