"""Upscaling: a picture is drawn anew at a multiple of its size, told of the picture with some noise, and of how much
(Rombach et al. 2022, arXiv:2112.10752, section 4.4; Ho et al. 2022, arXiv:2106.15282, section 4.2)."""

from collections.abc import Generator

from diffrt import noise
from diffrt.brownian import row_noise
from diffrt.denoise import Step, denoise, start
from diffrt.request import Request
from diffrt.schedulers import Scheduler
from diffrt.tasks.shared import Output, Parts, encode_words, finish, guided_model, telling, unit_noise, whole_run


def upscale(request: Request, scheduler: Scheduler, parts: Parts) -> Generator[Step, None, Output]:
    """Yield every step, return the output."""
    table = whole_run(scheduler, request)
    words = encode_words(request, parts)

    assert request.image is not None and parts.low_res_scheduler is not None
    streams = request.streams()
    seen = request.image.repeat(len(streams) // len(request.image), axis=0)  # [B,3,h,w]: a pixel for each latent
    seen = parts.low_res_scheduler.add_noise(seen, noise.randn(streams, seen.shape[1:]), request.noise_level)
    z = unit_noise(request, streams)

    model = guided_model(telling(parts.denoiser, seen), words, request, table)
    x = start(table, z)
    draw = row_noise(table, streams, request.seeds, request.rng, request.latent_shape)
    for step in denoise(table, model, x, draw, parts.colours):
        yield step
    return finish(request, parts, scheduler, words, step.latents)
