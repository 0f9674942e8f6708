"""Class to image: a picture of one of the classes that the model was trained on, guided away from none of them."""

from collections.abc import Generator

import numpy as np

from diffrt import noise
from diffrt.brownian import row_noise
from diffrt.denoise import Step, denoise, start
from diffrt.guidance import Conditions, factors, guide
from diffrt.request import Request
from diffrt.schedulers import Scheduler
from diffrt.tasks.shared import Output, Parts, finish, whole_run


def class_to_image(request: Request, scheduler: Scheduler, parts: Parts) -> Generator[Step, None, Output]:
    """Yield every step, return the output."""
    table = whole_run(scheduler, request)
    labels = np.array(request.class_labels, np.int64).repeat(request.num_images_per_prompt)
    negative: Conditions | None = {"class_labels": np.full_like(labels, request.classes)} if request.guided else None

    streams = noise.generators(request.seeds, request.rng)
    z = request.latents
    if z is None:
        z = noise.randn(streams, request.latent_shape)

    by_row = factors(table, request.guidance_interval, request.cfg_plus_plus) if request.guided else None
    scale, rescale = request.guidance_scale, request.guidance_rescale
    model = guide(parts.denoiser, {"class_labels": labels}, negative, scale, by_row, rescale)
    draw = row_noise(table, streams, request.seeds, request.rng, request.latent_shape)
    for step in denoise(table, model, start(table, z), draw, parts.colours):
        yield step
    return finish(request, parts, scheduler, None, step.latents)
