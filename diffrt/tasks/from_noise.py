"""From noise alone, of a prompt, of a class or of nothing: the whole story on a page."""

from collections.abc import Generator

from diffrt.brownian import row_noise
from diffrt.denoise import Step, start
from diffrt.request import Request
from diffrt.schedulers import Scheduler
from diffrt.tasks.shared import Output, Parts, encode_words, finish, steps, unit_noise, whole_run


def from_noise(request: Request, scheduler: Scheduler, parts: Parts) -> Generator[Step, None, Output]:
    """Yield every step, return the output."""
    table = whole_run(scheduler, request)
    words = encode_words(request, parts)

    streams = request.streams()
    z = unit_noise(request, streams)

    x = start(table, z)
    draw = row_noise(table, streams, request.seeds, request.rng, request.latent_shape)
    for step in steps(table, words, request, parts, x, draw):
        yield step
    return finish(request, parts, scheduler, words, step.latents)
