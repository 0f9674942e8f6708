"""The sampler's tables of a few numbers of steps, one after another: which rows are run is chosen by number."""

from collections.abc import Sequence

import numpy as np

from diffrt.errors import InvalidArgument
from diffrt.schedulers import Scheduler
from diffrt.schedulers.arrays import single_inputs


def baked(scheduler: Scheduler, steps: Sequence[int]) -> dict[str, np.ndarray]:
    """The inputs `table_...` of a single graph. InvalidArgument for a run that cannot be, or not in a graph."""
    found = []
    for n in steps:
        table = scheduler.table(n)
        if table.path is not None:
            raise InvalidArgument(
                f"{type(scheduler).__name__} takes its noise from one Brownian path, which a graph cannot draw: "
                "bake another --scheduler in, and feed this one's table and noise"
            )
        found.append(single_inputs(table))
    together = {name: np.concatenate([each[name] for each in found]) for name in found[0] if name != "table_clip"}
    return together | {"table_clip": found[0]["table_clip"]}
