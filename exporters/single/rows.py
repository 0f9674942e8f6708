"""Which rows of the tables a graph runs, and which noise they take."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..nodes import BOOL, INT64, ints
from .assembly import Assembly


@dataclass(frozen=True, eq=False)
class Run:
    rows: ir.Value  # i64 [E], of the tables
    draws: ir.Value  # i64 [1+M], which of a seed's draws are needed: the first one, and those of rows with noise
    place: ir.Value  # i64 [E], where among them a row's own is; anywhere for a row without
    ends: ir.Value | None = None  # bool [], whether the whole run is over after them


def chosen(
    main: Assembly,
    table: Mapping[str, ir.Value],
    steps: ir.Value,
    start: ir.Value,
    count: ir.Value,
    baked: Sequence[int],
) -> Run:
    """`count` rows from `start` on, of those that belong to this number of steps."""
    do = main.do
    belongs = do("Equal", table["table_steps"], steps)
    some = do("Cast", do("ReduceMax", do("Cast", belongs, to=INT64), keepdims=0), to=BOOL)
    otherwise = f"num_inference_steps must be one of {', '.join(map(str, baked))}"
    rows = main.check(some, otherwise, do("Squeeze", do("NonZero", belongs), ints(0)))
    length = do("Squeeze", do("Shape", rows), ints(0))
    inside = do("And", do("GreaterOrEqual", start, np.int64(0)), do("Less", start, length))
    inside = do("And", inside, do("Greater", count, np.int64(0)))
    start = main.check(inside, "start must be from 0 to the last evaluation, and count at least 1", start)
    end = do("Add", start, do("Min", count, do("Sub", length, start)))

    noisy = takes_noise(main, do("Gather", table["table_W"], rows))
    number = do("CumSum", noisy, np.int64(0))
    span = do("Unsqueeze", start, ints(0)), do("Unsqueeze", end, ints(0))
    rows, noisy, number = (do("Slice", each, *span) for each in (rows, noisy, number))
    draws = do("Concat", ints(0), do("Compress", number, do("Cast", noisy, to=BOOL), axis=0), axis=0)
    place = do("Mul", do("CumSum", noisy, np.int64(0)), noisy)
    return Run(rows, draws, place, do("Equal", end, length))


def everything(main: Assembly, table: Mapping[str, ir.Value], evals: int) -> Run:
    """All rows. As much noise is drawn as if every one took some: nothing is looped over, or of unknown size."""
    noisy = takes_noise(main, table["table_W"])
    place = main.do("Mul", main.do("CumSum", noisy, np.int64(0)), noisy)
    return Run(main.constant(ints(*range(evals))), main.constant(ints(*range(evals + 1))), place)


def takes_noise(main: Assembly, W: ir.Value) -> ir.Value:
    """Whether a row of W [E,S,S+3] has a weight for z: i64 [E], 0 or 1."""
    weight = main.do("Abs", main.do("Gather", W, np.int64(-1), axis=2))
    most = main.do("ReduceMax", weight, ints(1), keepdims=0)
    return main.do("Cast", main.do("Greater", most, np.float32(0)), to=INT64)
