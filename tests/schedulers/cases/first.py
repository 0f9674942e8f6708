"""The schedulers of the beginning."""

from tests.schedulers.cases.case import Case

CASES = {
    "PNDMScheduler": Case(
        variants=[({"skip_prk_steps": True}, 2), ({"skip_prk_steps": False}, 2)],  # its theorem 3.2
        transported=("epsilon",),  # it averages raw outputs, and v is not constant along the way
    ),
    "LMSDiscreteScheduler": Case(variants=[({}, 4)]),
}
