"""Two evaluations a step, and networks preconditioned as in EDM."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from diffrt.schedulers import SCHEDULERS
from tests.schedulers.cases.case import Case

CHURN = {"s_churn": 5.0, "s_tmin": 0.05, "s_tmax": 10.0, "s_noise": 1.01}


def custom_times(n: int, config: Mapping[str, Any]) -> dict[str, Any]:
    """Uneven training times; as many as given make the run."""
    last = config["num_train_timesteps"] - 1
    return {"timesteps": sorted({round(last * (1 - (i / n) ** 1.3), 1) for i in range(n)}, reverse=True)}


def custom_sigmas(n: int, config: Mapping[str, Any]) -> dict[str, Any]:
    """Levels down to an end that is not zero, as Euler takes them."""
    return {"sigmas": [9.5 * (1 - i / (n + 1)) ** 3 for i in range(n + 1)]}


def churn(n: int, config: Mapping[str, Any]) -> dict[str, Any]:
    """Not with the levels of fault 9, of which the reference counts one more."""
    return {} if config.get("interpolation_type") == "log_linear" else CHURN


def network(kind: str, x0: Any, eps: Any, sigma: float, data: float) -> Any:
    """F of arXiv:2206.00364 eq. 7, from the x0 it stands for; of the other sign where it predicts v."""
    x, r2 = x0 + sigma * eps, sigma**2 + data**2
    f = (x0 - data**2 / r2 * x) / (sigma * data / math.sqrt(r2))
    return -f if kind == "v_prediction" else f


def edm(kind: str, x0: Any, eps: Any, alpha: float, sigma: float) -> Any:
    return network(kind, x0, eps, sigma, 0.5)


def cosine(kind: str, x0: Any, eps: Any, alpha: float, sigma: float) -> Any:
    return network(kind, x0, eps, sigma, 1.0)


def falls_far(config: Mapping[str, Any], n: int) -> bool:
    """Fault B1: its float32 loses the square of what a step divides sigma by."""
    levels = SCHEDULERS["KDPM2AncestralDiscreteScheduler"](**config).grid(n).sigmas[:-1]
    return bool(np.any(levels[:-1] > 100 * levels[1:]))


LEVELS = {
    "sigma_min": (0.002, 0.3),
    "sigma_max": (80.0, 500.0),
    "sigma_data": (0.5, 1.0),
    "rho": (7.0, 5.0),
    "num_train_timesteps": (1000,),
}
SOLVERS = [{"solver_order": order, "solver_type": kind} for order in (1, 2) for kind in ("midpoint", "heun")]
MULTISTEP = [
    ({**solver, "algorithm_type": algorithm}, solver["solver_order"])
    for solver in SOLVERS
    for algorithm in ("dpmsolver++", "sde-dpmsolver++")
]


def stands_still(config: Mapping[str, Any], n: int, options: Mapping[str, Any]) -> bool:
    """Fault 4, and the same of a path that is read where it stands."""
    return config["final_sigmas_type"] == "sigma_min"


CASES = {
    "EulerDiscreteScheduler": Case(
        options=({}, {}, custom_times, custom_sigmas, churn),
        variants=[({}, 1), ({"use_karras_sigmas": True}, 1)],
        refused=("timesteps and", "beyond the last"),
    ),
    "HeunDiscreteScheduler": Case(
        wide=("sample",),  # two steps are off by 2e-4
        options=({}, {}, custom_times),
        variants=[({}, 2), ({"use_karras_sigmas": True}, 2)],
    ),
    "KDPM2DiscreteScheduler": Case(variants=[({}, 2), ({"use_karras_sigmas": True}, 2)]),
    "KDPM2AncestralDiscreteScheduler": Case(
        # Fault B1: its float32 cannot take the long steps from high levels.
        values={"beta_schedule": ("linear", "scaled_linear"), "beta_end": (0.012,)},
        inexact=(2, 3),
        lossy=falls_far,
    ),
    "DPMSolverSDEScheduler": Case(options=({}, {"s_noise": 0.9})),
    "EDMEulerScheduler": Case(
        values=LEVELS,
        options=({}, churn),
        variants=[({}, 1), ({"sigma_schedule": "exponential"}, 1)],
        says=edm,
    ),
    "EDMDPMSolverMultistepScheduler": Case(
        values=LEVELS,
        refused=("has no order 3",),  # the reference runs it for one or two steps
        broken=stands_still,
        config={"final_sigmas_type": "zero"},  # else its last step stands still but for float32
        variants=[*MULTISTEP, ({"solver_order": 3, "algorithm_type": "dpmsolver++"}, 2)],  # fault 5
        law_steps=(125, 250, 499),
        says=edm,
    ),
    "CosineDPMSolverMultistepScheduler": Case(
        values=LEVELS,
        broken=stands_still,
        config={"final_sigmas_type": "zero", "sigma_min": 0.001},
        variants=[(solver, 1) for solver in SOLVERS],
        says=cosine,
    ),
}
