"""The exponential integrators: DPM-Solver, DEIS, UniPC and SA-Solver."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.schedulers.cases.case import Case

if TYPE_CHECKING:
    from tests.schedulers.reference import Reference

RESPACED = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
SELDOM = dict.fromkeys(RESPACED, (False, False, False, False, False, True))  # they exclude each other
FLOW = SELDOM | {"use_flow_sigmas": (False, False, True), "use_dynamic_shifting": (False, True)}
NO_FLOW = SELDOM | {
    "prediction_type": ("epsilon", "v_prediction", "sample"),
    "algorithm_type": ("dpmsolver++", "dpmsolver"),
}
REFUSED = ("needs use_flow_sigmas", "is not what a flow model predicts")


def respaced(config: Mapping[str, Any]) -> bool:
    return any(config.get(key) for key in RESPACED)


def mu(n: int, config: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"mu": 0.8} if config["use_dynamic_shifting"] else {}


def timesteps(n: int, config: Mapping[str, Any]) -> Mapping[str, Any]:
    if config["use_flow_sigmas"] or respaced(config):
        return {}
    last = config["num_train_timesteps"] - 1
    return {"timesteps": np.linspace(last, 3, n).astype(int).tolist()}


def sigmas(n: int, config: Mapping[str, Any]) -> Mapping[str, Any]:
    if not config["use_flow_sigmas"] or respaced(config):
        return mu(n, config)
    return {"sigmas": np.linspace(1, 0.1, n) ** 1.5, **mu(n, config)}


def inverse(reference: "Reference") -> None:
    """The plain loop, from the first step (fault 3). Fault C7: fewer timesteps than levels."""
    if len(reference.scheduler.timesteps) != len(reference.scheduler.sigmas) - 1:
        raise ValueError
    reference.scheduler._step_index = 0
    reference.plain()


DPM = [
    ({"solver_order": order, "algorithm_type": algorithm, "solver_type": solver}, min(order, 2))  # fault 5
    for order in (1, 2, 3)
    for algorithm in ("dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver")
    for solver in ("midpoint", "heun")
    if (algorithm, order) != ("sde-dpmsolver", 3)
]
EVEN = {"use_exponential_sigmas": True, "flow_shift": 3.0}  # even in lambda, flows end above sigma_min
LAW_STEPS = (49, 124, 249)  # n + 1 divides 1000: its end is not counted


def dpm_wrong(options: Mapping[str, Any]) -> bool:
    """Fault 6."""
    return (options["algorithm_type"], options["solver_order"]) == ("sde-dpmsolver++", 3)


CASES = {
    "DPMSolverMultistepScheduler": Case(
        values=FLOW,
        options=(mu, timesteps),
        refused=(*REFUSED, "has no order 3"),
        # Faults 4 and C2.
        broken=lambda config, n, options: (
            config["final_sigmas_type"] == "sigma_min" or config["prediction_type"] == "flow_prediction"
        ),
        config={"flow_shift": 3.0},  # ends above sigma_min
        variants=DPM,
        wrong=dpm_wrong,
        law_steps=LAW_STEPS,
    ),
    "DPMSolverMultistepInverseScheduler": Case(
        values=NO_FLOW,
        drive=inverse,
        refused=(*REFUSED, "inversion"),
        # Faults C7 and C8.
        broken=lambda config, n, options: respaced(config) or config["timestep_spacing"] == "trailing",
        variants=[(options, order) for options, order in DPM if not options["algorithm_type"].startswith("sde")],
        law_steps=LAW_STEPS,
        transported=("epsilon", "v_prediction", "sample"),
        exempt={"previews": "it ends in noise"},
    ),
    "DPMSolverSinglestepScheduler": Case(
        values=FLOW,
        options=(mu, timesteps),
        refused=REFUSED,
        # Faults 4, C2 and C3.
        broken=lambda config, n, options: config["final_sigmas_type"] == "sigma_min",
        config=EVEN,
        variants=[
            ({"solver_order": order, "algorithm_type": algorithm, "solver_type": solver}, order)
            for order in (1, 2, 3)
            for algorithm in ("dpmsolver++", "dpmsolver", "sde-dpmsolver++")
            for solver in ("midpoint", "heun")
        ],
        law_steps=(48, 126, 252),
        wrong=lambda options: dpm_wrong(options) and options["solver_type"] == "heun",
        group="solver_order",
    ),
    "DEISMultistepScheduler": Case(
        values=FLOW,
        wide=("flow_prediction",),  # its first step multiplies x by up to 1000, and takes most of that away again
        options=(mu,),
        refused=REFUSED,
        config=EVEN,
        variants=[({"solver_order": order}, order) for order in (1, 2, 3)],
        law_steps=LAW_STEPS,
    ),
    "UniPCMultistepScheduler": Case(
        values=FLOW
        | {
            "shift_terminal": (None,) * 7 + (0.1,),
            "disable_corrector": ((), (), (0, 2)),
            "lower_order_final": (True, True, False),
            "predict_x0": (True, True, False),
            "final_sigmas_type": ("sigma_min", "zero"),
        },
        options=(mu, sigmas),
        refused=(*REFUSED, "cannot step to zero noise", "has no room", "needs predict_x0"),
        # Faults C4 and 4.
        broken=lambda config, n, options: (
            config["solver_type"] == "bh1" or not config["lower_order_final"]
            if config["final_sigmas_type"] == "zero"
            else respaced(config) or config["use_flow_sigmas"]
        ),
        config=EVEN,
        variants=[
            ({"solver_order": order, "solver_type": solver, "predict_x0": data}, order)
            for order in (1, 2, 3)
            for solver in ("bh1", "bh2")
            for data in (True, False)
        ],
        corrector=lambda config: config["solver_order"] + 1,
        law_steps=LAW_STEPS,
    ),
    "SASolverScheduler": Case(
        values=FLOW,
        refused=REFUSED,
        # Faults C2 and C3.
        broken=lambda config, n, options: (
            config["algorithm_type"] == "noise_prediction"
            and (config["thresholding"] or config["prediction_type"] == "flow_prediction")
        ),
        config=EVEN,
        # Before training step 200 tau is 0.
        variants=[
            ({"num_train_timesteps": T, "predictor_order": p, "corrector_order": c, "algorithm_type": kind}, order)
            for T, p, c, order in (
                *((1000, 1, 1, 1), (1000, 2, 2, 1), (1000, 3, 4, 1)),
                *((200, 1, 2, 1), (200, 2, 2, 2), (200, 2, 3, 2), (200, 3, 4, 3), (200, 4, 4, 4)),
            )
            for kind in ("data_prediction", "noise_prediction")
        ],
        corrector=lambda config: config["corrector_order"],
        law_steps=(49, 99, 199),
    ),
}
