"""Unconditional: pictures like those the model has seen, of noise alone (Ho et al. 2020, arXiv:2006.11239)."""

from collections.abc import Generator

from diffrt import noise
from diffrt.brownian import row_noise
from diffrt.denoise import Step, denoise, start
from diffrt.request import Request
from diffrt.schedulers import Scheduler
from diffrt.tasks.shared import Output, Parts, finish


def unconditional(request: Request, scheduler: Scheduler, parts: Parts) -> Generator[Step, None, Output]:
    """Yield every step, return the output."""
    table = scheduler.table(request.num_inference_steps, eta=request.eta)
    streams = noise.generators(request.seeds, request.rng)
    z = request.latents
    if z is None:
        z = noise.randn(streams, request.latent_shape)
    draw = row_noise(table, streams, request.seeds, request.rng, request.latent_shape)
    for step in denoise(table, lambda x, t, row: parts.denoiser(x, t, {}), start(table, z), draw, parts.colours):
        yield step
    return finish(request, parts, scheduler, None, step.latents)
