"""The six schedulers of the beginning."""

from tests.schedulers.cases.case import Case

DPM = [
    ({"solver_order": order, "algorithm_type": algorithm, "solver_type": solver}, min(order, 2))  # fault 5
    for order in (1, 2, 3)
    for algorithm in ("dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver")
    for solver in ("midpoint", "heun")
    if (algorithm, order) != ("sde-dpmsolver", 3)
]

CASES = {
    "PNDMScheduler": Case(
        variants=[({"skip_prk_steps": True}, 2), ({"skip_prk_steps": False}, 2)],  # its theorem 3.2
        transported=("epsilon",),  # it averages raw outputs, and v is not constant along the way
    ),
    "LMSDiscreteScheduler": Case(variants=[({}, 4)]),
    "EulerDiscreteScheduler": Case(variants=[({}, 1), ({"use_karras_sigmas": True}, 1)]),
    "DPMSolverMultistepScheduler": Case(
        refused=("has no order 3",),
        broken=lambda config, n, options: config["final_sigmas_type"] == "sigma_min",  # fault 4
        variants=DPM,
        law_steps=(49, 124, 249),  # n + 1 divides 1000: its end is not counted
    ),
}
