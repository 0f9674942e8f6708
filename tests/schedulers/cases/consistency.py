"""Consistency models and their distilled kin."""

from collections.abc import Mapping
from typing import Any

from tests.schedulers.cases.case import Case

RESAMPLES = "every step draws the picture anew, which only a consistency model can: see test_consistency"


def custom(n: int, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """As many whole timesteps, unevenly."""
    last = config["num_train_timesteps"] - 1
    return {"timesteps": [last - int(last * (k / n) ** 1.3) for k in range(n)]}


DISTILLED: dict[str, Any] = {
    "values": {"original_inference_steps": (50, 50, 20), "timestep_scaling": (10.0, 0.01)},
    "options": ({}, custom, {"strength": 0.6}, {"original_inference_steps": 100}, {"original_inference_steps": 35}),
}

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
}
