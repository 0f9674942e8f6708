"""Schedulers of old models."""

from typing import TYPE_CHECKING

import numpy as np

from tests.schedulers.cases.case import Case

if TYPE_CHECKING:
    from tests.schedulers.reference import Reference


def variance_exploding(reference: "Reference") -> None:
    """The loop of diffusers' ScoreSdeVePipeline without its corrector: the network is told sigma."""
    scheduler, run = reference.scheduler, reference.run
    run.timesteps, run.sigmas = scheduler.sigmas.numpy(), np.append(scheduler.discrete_sigmas.flip(0), 0)
    for i, t in enumerate(scheduler.timesteps):
        out = scheduler.step_pred(reference.model(reference.x, scheduler.sigmas[i]), t, reference.x)
        reference.done(out.prev_sample_mean if i == len(run.timesteps) - 1 else out.prev_sample)


def variance_preserving(reference: "Reference") -> None:
    for i, t in enumerate(reference.scheduler.timesteps):
        x, mean = reference.scheduler.step_pred(reference.model(reference.x, t), reference.x, t)
        reference.done(mean if i == len(reference.run.timesteps) - 1 else x)


def set_both(scheduler: object, n: int | None, options: object) -> None:
    scheduler.set_timesteps(n)  # type: ignore[attr-defined]
    scheduler.set_sigmas(n)  # type: ignore[attr-defined]


CASES = {
    "IPNDMScheduler": Case(
        values={"trained_betas": (None,)},
        law_skip=1,
        variants=[({}, 2)],
        transported=("v_prediction",),
        exempt={"add_noise": "the reference's class has none"},
    ),
    "ScoreSdeVeScheduler": Case(
        values={
            "num_train_timesteps": (60, 100),
            "sigma_max": (1348.0, 50.0),
            "sigma_min": (0.01, 0.05),
            "sampling_eps": (1e-5, 1e-3),
        },
        prepare=set_both,
        drive=variance_exploding,
        network=lambda m, x, sigma: (m - x / 2) / sigma**2,  # pulls x down with sigma, as a score does
        exempt={"transport": "a reverse-diffusion step errs by h^2", "add_noise": "the reference's counts from 0"},
        transported=("score",),
    ),
    "ScoreSdeVpScheduler": Case(
        values={"beta_min": (0.1, 0.2), "beta_max": (20, 15.0), "sampling_eps": (1e-3, 1e-2)},
        drive=variance_preserving,
        exempt={"transport": "an Euler-Maruyama step errs by h^2", "add_noise": "the reference's class has none"},
    ),
}
