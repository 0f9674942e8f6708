"""A table as rows of arrays whose shapes do not depend on it: another scheduler or number of steps compiles nothing."""

from collections.abc import Sequence

import numpy as np

from diffrt.errors import InvalidArgument
from diffrt.schedulers import Table
from diffrt.tables.arrays import arrays

SLOTS = 8  # as many as any scheduler needs, and the last for the preview
FEWEST = 8  # rows of a program
AFTER = ("alpha_after", "sigma_after")  # of x once a row is done: an empty row changes nothing
SHARED = ("clip", "threshold", "rescale")  # by all rows
Rows = dict[str, np.ndarray]


def bucket(evals: int) -> int:
    """How many rows a table is filled up to: a power of two."""
    return max(FEWEST, 1 << (evals - 1).bit_length())


def rows_of(table: Table, factors: Sequence[float | None] | None = None, rescale: float = 0.0) -> Rows:
    """The table's rows and an empty one. The last slot is the picture that the network last saw. factors and rescale
    are those of diffrt/guidance.py."""
    if table.spread is not None:
        raise InvalidArgument("the scheduler's variance_type asks for a network that learned its variance")
    if len(table.slots) >= SLOTS:
        raise InvalidArgument(f"the scheduler remembers {len(table.slots)} arrays, at most {SLOTS - 1} are allowed")
    rows = arrays(table, table.evals + 1, SLOTS - 1, denoised=True)
    # the noise level of x after a row, and then none
    rows["alpha_after"] = np.append(table.alpha[1:], [1, 1]).astype(np.float32)
    rows["sigma_after"] = np.append(table.sigma[1:], [0, 0]).astype(np.float32)
    by_row = [1.0] * table.evals if factors is None else factors
    rows["guided"] = np.array([*(0.0 if each is None else each for each in by_row), 1], np.float32)
    rows["plain"] = np.array([*(float(each is None) for each in by_row), 0], np.float32)  # a scale of 1
    rows["rescale"] = np.array(rescale, np.float32)
    return rows


def segment(rows: Rows, start: int, stop: int, length: int) -> Rows:
    """Rows from start to stop, and empty ones after them."""
    filled = np.minimum(np.arange(start, start + length), stop - 1)
    indices = np.where(np.arange(start, start + length) < stop, filled, len(rows["t"]) - 1)
    places = {name: filled if name in AFTER else indices for name in rows}
    return {name: column if name in SHARED else column[places[name]] for name, column in rows.items()}
