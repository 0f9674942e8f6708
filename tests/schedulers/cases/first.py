"""The schedulers of the beginning."""

from tests.schedulers.cases.case import Case

CASES = {
    "DDIMScheduler": Case(broken=lambda config, n, options: options["eta"] == 1),  # fault 11
    "PNDMScheduler": Case(
        variants=[({"skip_prk_steps": True}, 2), ({"skip_prk_steps": False}, 2)],  # its theorem 3.2
        transported=("epsilon",),  # it averages raw outputs, and v is not constant along the way
    ),
    "LMSDiscreteScheduler": Case(variants=[({}, 4)]),
    "EulerDiscreteScheduler": Case(variants=[({}, 1), ({"use_karras_sigmas": True}, 1)]),
}
