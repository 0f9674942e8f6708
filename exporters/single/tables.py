"""The sampler's tables of a few numbers of steps, one after another: which rows are run is chosen by number."""

from collections.abc import Sequence

import numpy as np

from diffrt.errors import InvalidArgument
from diffrt.schedulers import Scheduler
from diffrt.tables.arrays import single_inputs


def baked(scheduler: Scheduler, steps: Sequence[int], pictured: bool = False) -> dict[str, np.ndarray]:
    """The inputs `table_...` of a single graph. One that begins with a picture has a table for every number of last
    steps: where a run begins, a sampler warms up, so that none of them is a part of another. InvalidArgument for a run
    that cannot be, or not in a graph."""
    found = []
    for n in steps:
        for k in range(1, n + 1) if pictured else (n,):
            table = scheduler.table(n, skip=n - k)
            if table.path is not None:
                raise InvalidArgument(
                    f"{type(scheduler).__name__} takes its noise from one Brownian path, which a graph cannot draw: "
                    "bake another --scheduler in, and feed this one's table and noise"
                )
            found.append(single_inputs(table, (k, n) if pictured else None))
    together = {name: np.concatenate([each[name] for each in found]) for name in found[0] if name != "table_clip"}
    return together | {"table_clip": found[0]["table_clip"]}
