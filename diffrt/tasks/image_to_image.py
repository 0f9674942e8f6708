"""Image to image: a picture is noised part of the way, and the run goes on from there (Meng et al. 2021, SDEdit,
arXiv:2108.01073, algorithm 1). A model may be told of its depth beside (Rombach et al. 2022, arXiv:2112.10752)."""

from collections.abc import Generator

from diffrt.brownian import row_noise
from diffrt.denoise import Step, start
from diffrt.request import Request
from diffrt.schedulers import Scheduler
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


def image_to_image(request: Request, scheduler: Scheduler, parts: Parts) -> Generator[Step, None, Output]:
    """Yield every step, return the output. With a strength that leaves no step, the picture goes through the
    autoencoder alone."""
    table = partial_table(scheduler, request)
    words = encode_words(request, parts)

    streams = request.streams()
    latents = request.image_latents
    if latents is None:
        assert request.image is not None
        latents = encode_pictures(request.image, request, parts, streams)
        parts.done(parts.encoder)

    if table is not None:
        x = latents  # as noisy as they are to be where the run goes on from another one
        if request.denoising_start is None:
            x = start(table, unit_noise(request, streams), latents)
        model = None
        if request.depth is not None:
            model = telling(parts.denoiser, request.depth.repeat(len(x) // len(request.depth), axis=0))
        draw = row_noise(table, streams, request.seeds, request.rng, request.latent_shape)
        for step in steps(table, words, request, parts, x, draw, model):
            yield step
        latents = step.latents
    return finish(request, parts, scheduler, words, latents)
