"""From noise alone, of a prompt, of a picture, of a class or of nothing: the whole story on a page."""

from collections.abc import Generator
from functools import partial

from diffrt.brownian import row_noise
from diffrt.corrector import Corrector, corrections
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
    correct = None
    if isinstance(scheduler, Corrector):
        correct = partial(corrections, scheduler, table, streams)
    for step in steps(table, words, request, parts, x, draw, correcting=correct):
        yield step
    return finish(request, parts, scheduler, words, step.latents)
