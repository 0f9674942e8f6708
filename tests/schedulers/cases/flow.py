"""Flow models."""

from collections.abc import Callable, Mapping
from typing import Any

from tests.schedulers.cases.case import Case
from tests.schedulers.cases.consistency import RESAMPLES, but_for_the_end

FLOW: dict[str, Any] = {"transported": ("flow_prediction",)}


def sigmas(n: int, shorter: int = 0) -> list[float]:
    """n levels unevenly down from 1, or so many fewer."""
    return [1 - (k / n) ** 1.3 for k in range(n - shorter)]


def custom(*keys: str) -> Callable[[int, Mapping[str, Any]], Mapping[str, Any]]:
    """Those of the options, and mu where it is needed."""

    def options(n: int, config: Mapping[str, Any]) -> Mapping[str, Any]:
        last = config["num_train_timesteps"]
        given = {"sigmas": sigmas(n), "timesteps": [last * (1 - k / n) ** 2 for k in range(n)]}
        mu = {"mu": 0.8} if config.get("use_dynamic_shifting") else {}
        return {key: given[key] for key in keys} | mu

    return options


SHIFTED: dict[str, Any] = FLOW | {
    "values": {
        "shift": (1.0, 3.0),
        "use_dynamic_shifting": (False, False, True),
        "shift_terminal": (None, None, 0.02),
        "invert_sigmas": (False, False, False, True),
    },
    "options": (custom(), custom(), custom("sigmas"), custom("timesteps"), custom("sigmas", "timesteps")),
}


CASES = {
    "FlowMatchEulerDiscreteScheduler": Case(
        **SHIFTED,
        refused=("not defined for inverted levels",),
        variants=[({}, 1), ({"shift": 3.0}, 1), ({"invert_sigmas": True}, 1)],
    ),
    "FlowMatchLCMScheduler": Case(
        **SHIFTED,
        refused=("not defined for inverted levels",),
        exempt={"order": RESAMPLES},
    ),
    "FlowMatchHeunDiscreteScheduler": Case(
        **FLOW, values={"shift": (1.0, 3.0)}, variants=[({}, 2), ({"shift": 3.0}, 2)]
    ),
    "FlowMapEulerDiscreteScheduler": Case(
        **FLOW,
        values={"shift": (1.0, 3.0)},
        options=({}, custom("sigmas"), custom("timesteps")),
        variants=[({}, 1), ({"shift": 3.0}, 1)],
    ),
    "LTXEulerAncestralRFScheduler": Case(
        **FLOW,
        values={"eta": (0.0, 0.5, 1.0), "s_noise": (1.0, 0.9)},
        options=({}, lambda n, config: {"sigmas": [*sigmas(n), 0.0]}, lambda n, config: {"sigmas": sigmas(n + 1)}),
        drive=but_for_the_end,
        variants=[({}, 1), ({"eta": 0.5}, 1), ({"eta": 0.0}, 1)],
        exempt={"add_noise": "the reference's class has none"},
    ),
}
