"""The loop over a step graph: the state stays on the device, and a row's numbers are all that goes there."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import numpy as np

from diffrt.components.step import StepGraph
from diffrt.denoise import Colours, Step
from diffrt.guidance import F32, Mixture
from diffrt.tables.arrays import arrays
from diffrt.tables.table import Table


def misfit(table: Table) -> str:
    """What a table has that the step graph does not do; empty where it fits."""
    if table.threshold is not None:
        return "dynamic thresholding"
    return "a learned variance" if table.spread is not None else ""


def denoise_held(
    table: Table,
    graph: StepGraph,
    mixture: Callable[[int], Mixture],
    x: F32,
    noise: Callable[[int], F32],
    colours: Colours | None = None,
) -> Iterator[Step]:
    """As diffrt.denoise.denoise, of a table without a misfit. mixture(i): what row i evaluates.

    The last slot is the model's estimate of the finished latents. Rows that call no model call it all the same, and
    multiply what it says by 0.
    """
    rows = arrays(table, denoised=True)
    slots = np.zeros((rows["W"].shape[1], *x.shape), np.float32)
    slots[0] = slots[-1] = x
    ends = np.append(table.step_of[1:] != table.step_of[:-1], True)
    held, places = ExitStack(), None
    with held:
        for i in range(table.evals):
            mixed = mixture(i)
            times = np.full(len(mixed.pictures), rows["t"][i], np.float32)
            if places is None or places.shape("timestep") != times.shape:  # guidance begins or ends
                slots = slots if places is None else places.state()
                held.close()
                places = held.enter_context(graph.hold(slots, mixed))
            row = {name: rows[name][i, ...] for name in ("c_in", "p", "q", "W")}
            noisy = {"z": noise(i)} if table.noisy[i] else {}
            places.put(**row, **noisy, timestep=times, clip=rows["clip"], weights=mixed.weights)
            places.run()
            if ends[i]:
                slots = places.state()
                yield Step(int(table.step_of[i]), table.steps, float(table.t[i]), slots[0], slots[-1], colours)
