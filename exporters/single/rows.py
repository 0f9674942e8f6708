"""Which rows of the tables a graph runs, and which noise they take."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..nodes import BOOL, DOUBLE, INT64, ints
from .assembly import Assembly

LAST = ints(np.iinfo(np.int64).max)  # where a Slice goes on to the end


@dataclass(frozen=True, eq=False)
class Opening:
    """The draws of a seed before the first one of a row."""

    draws: tuple[ir.Value | np.ndarray, ...]  # i64 [1] each, those that are needed
    count: ir.Value | np.ndarray  # i64 [1], how many there are


NOISE = Opening((ints(0),), ints(1))  # the initial noise


@dataclass(frozen=True, eq=False)
class Run:
    rows: ir.Value  # i64 [E], of the tables
    draws: ir.Value  # i64 [D+M], which of a seed's draws are needed: those of the opening, and those of rows with noise
    place: ir.Value  # i64 [E], where among them a row's own is; anywhere for a row without
    following: ir.Value | None = None  # i64 [E], the row after each; one beyond the tables after the run's last
    ends: ir.Value | None = None  # bool [], whether the whole run is over after them


def last_steps(
    main: Assembly, table: Mapping[str, ir.Value], steps: ir.Value, strength: ir.Value, baked: Sequence[int]
) -> ir.Value:
    """i64 [], how many steps are run: strength * steps, rounded down. In float64 and so as `partial_table` in
    diffrt/tasks/shared.py, to the bit: 0.29 of 100 is 28."""
    do = main.do
    steps = main.check(some(main, do("Equal", table["table_steps"], steps)), steps_are(baked), steps)
    ran = do("Cast", do("Mul", do("Cast", steps, to=DOUBLE), strength), to=INT64)
    fits = do("And", do("LessOrEqual", strength, np.float64(1)), do("GreaterOrEqual", ran, np.int64(1)))
    return main.check(fits, "strength must be at most 1, and leave at least one of num_inference_steps", ran)


def chosen(
    main: Assembly,
    table: Mapping[str, ir.Value],
    steps: ir.Value,
    start: ir.Value,
    count: ir.Value,
    baked: Sequence[int],
    ran: ir.Value | None = None,
    opening: Opening = NOISE,
) -> Run:
    """`count` rows from `start` on, of those that belong to this number of steps and, where it is given, to so many of
    them that are run."""
    do = main.do
    belongs, otherwise = do("Equal", table["table_steps"], steps), steps_are(baked)
    if ran is not None:
        belongs = do("And", belongs, do("Equal", table["table_run"], ran))
        otherwise = "table_run must hold num_inference_steps * strength, rounded down"
    rows = main.check(some(main, belongs), otherwise, do("Squeeze", do("NonZero", belongs), ints(0)))
    length = do("Squeeze", do("Shape", rows), ints(0))
    inside = do("And", do("GreaterOrEqual", start, np.int64(0)), do("Less", start, length))
    inside = do("And", inside, do("Greater", count, np.int64(0)))
    start = main.check(inside, "start must be from 0 to the last evaluation, and count at least 1", start)
    end = do("Add", start, do("Min", count, do("Sub", length, start)))

    noisy = takes_noise(main, do("Gather", table["table_W"], rows))
    number = do("Add", do("CumSum", noisy, np.int64(0)), do("Sub", opening.count, ints(1)))
    following = do("Concat", do("Slice", rows, ints(1), LAST), do("Shape", table["table_t"]), axis=0)
    span = do("Unsqueeze", start, ints(0)), do("Unsqueeze", end, ints(0))
    rows, following, noisy, number = (do("Slice", each, *span) for each in (rows, following, noisy, number))
    of_rows = do("Compress", number, do("Cast", noisy, to=BOOL), axis=0)
    draws = do("Concat", *opening.draws, of_rows, axis=0)
    place = do("Mul", do("Add", do("CumSum", noisy, np.int64(0)), np.int64(len(opening.draws) - 1)), noisy)
    return Run(rows, draws, place, following, do("Equal", end, length))


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


def some(main: Assembly, each: ir.Value) -> ir.Value:
    """Whether any of bool [E] holds: bool []."""
    return main.do("Cast", main.do("ReduceMax", main.do("Cast", each, to=INT64), keepdims=0), to=BOOL)


def steps_are(baked: Sequence[int]) -> str:
    return f"num_inference_steps must be one of {', '.join(map(str, baked))}"
