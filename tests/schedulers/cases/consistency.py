"""Consistency models and their distilled kin."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tests.schedulers.cases.case import Case

if TYPE_CHECKING:
    from tests.schedulers.reference import Reference

RESAMPLES = "every step draws the picture anew, which only a consistency model can: see test_consistency"


def custom(n: int, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """As many whole timesteps, unevenly."""
    last = config["num_train_timesteps"] - 1
    return {"timesteps": [last - int(last * (k / n) ** 1.3) for k in range(n)]}


def scm(scheduler: Any, n: int | None, options: Mapping[str, Any]) -> None:
    """Its defaults go together in two steps alone."""
    if "timesteps" in options:
        defaults: dict[str, Any] = {"max_timesteps": None, "intermediate_timesteps": None}
        n = len(options["timesteps"]) - 1
    else:
        defaults = {} if n == 2 else {"intermediate_timesteps": None}
    scheduler.set_timesteps(n, **(defaults | options))


DISTILLED: dict[str, Any] = {
    "values": {"original_inference_steps": (50, 50, 20), "timestep_scaling": (10.0, 0.01)},
    "options": ({}, custom, {"strength": 0.6}, {"original_inference_steps": 100}, {"original_inference_steps": 35}),
}


def but_for_the_end(reference: "Reference") -> None:
    """The timesteps of some runs have the end among them, at which the reference does nothing."""
    scheduler, n = reference.scheduler, reference.scheduler.num_inference_steps
    reference.run.timesteps = reference.run.timesteps[:n]
    for t in scheduler.timesteps[:n]:
        reference.done(scheduler.step(reference.model(reference.x, t), t, reference.x).prev_sample)


CASES = {
    "LCMScheduler": Case(
        **DISTILLED,
        # Without the boundary condition's share of x, which is 1e-5 at the default.
        config={"timestep_scaling": 1e9},
        exempt={"order": RESAMPLES},
    ),
    "TCDScheduler": Case(
        **DISTILLED,
        config={"original_inference_steps": 1000},
        exempt={"noisy order": RESAMPLES},
    ),
    "CMStochasticIterativeScheduler": Case(
        steps=(1, 2, 3, 5, 10, 20, 40),
        values={
            "num_train_timesteps": (40, 18),
            "sigma_min": (0.002, 0.01),
            "sigma_max": (80.0, 50.0),
            "sigma_data": (0.5, 0.7),
            "s_noise": (1.0, 0.9),
            "rho": (7.0, 5.0),
        },
        options=({}, lambda n, config: {"timesteps": [17 - k for k in range(min(n, 17))]}),
        config={"clip_denoised": False},
        exempt={"order": RESAMPLES, "transport": "the network's picture has noise sigma_min: see test_consistency"},
        transported=("own",),
    ),
    "ConsistencyDecoderScheduler": Case(
        steps=(2,),
        values={"num_train_timesteps": (1024, 1100), "sigma_data": (0.5, 0.7)},
        exempt={"order": RESAMPLES, "add_noise": "the reference's class has none"},
        transported=("own",),
    ),
    "SCMScheduler": Case(
        values={"sigma_data": (0.5, 0.7)},
        options=(
            {},
            {"max_timesteps": 1.4},
            lambda n, config: {"timesteps": [1.57 * (1 - k / (n + 1)) ** 1.2 for k in range(n + 1)]},
            lambda n, config: {"intermediate_timesteps": 0.9} if n == 2 else {"max_timesteps": 1.2},
        ),
        prepare=scm,
        drive=but_for_the_end,
        exempt={"order": RESAMPLES, "add_noise": "the reference's class has none"},
    ),
}
