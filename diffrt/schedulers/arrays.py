"""A table as the arrays that the other two interpreters take as inputs: the ONNX graph of exporters/loop.py and the
JAX function of diffrt/flax/sampling.py. Arrays of one shape run through one graph, whatever scheduler made them."""

import numpy as np

from diffrt.errors import InvalidArgument
from diffrt.schedulers.table import Table

COLUMNS = ("t", "c_in", "p", "q", "W", "calls", "log_std")  # one row for each evaluation


def arrays(table: Table, evals: int | None = None, slots: int | None = None) -> dict[str, np.ndarray]:
    """All float32 but `calls`:

    t, c_in, p, q   [E]
    W               [E,S,S+3]  columns: slots, y, m, z. Where no slot reads y, p and q are 0
    calls           [E] bool   which rows read the model's output
    clip            []         y is clipped to [-clip, clip]; infinite: it is not
    threshold       [2]        the quantile and the limit; only where y is thresholded
    log_std         [E,2]      only where the network says between which two the width of z is ("range")

    Up to `evals` rows are added that change nothing and call no model, and up to `slots` slots that stay as they are.
    """
    e, s = evals or table.evals, slots or len(table.slots)
    if e < table.evals or s < len(table.slots):
        raise InvalidArgument(f"{e} rows of {s} slots cannot hold a table of {table.evals} of {len(table.slots)}")
    reads = table.folded[:, :, -3].any(axis=1)
    W = np.zeros((e, s, s + 3))
    W[:, :, :s] = np.eye(s)
    within = [*range(len(table.slots)), s, s + 1, s + 2]
    W[: table.evals, : len(table.slots), within] = table.folded
    found = {
        "t": _longer(table.t, e),
        "c_in": _longer(table.c_in, e),
        "p": _longer(table.p * reads, e),
        "q": _longer(table.q * reads, e),
        "W": W,
        "clip": np.array(np.inf if table.clip is None else table.clip),
    }
    if table.threshold is not None:
        found["threshold"] = np.array([table.threshold.quantile, table.threshold.limit])
    if table.log_std is not None:
        found["log_std"] = _longer(table.log_std, e)
    calls = np.zeros(e, bool)
    calls[: table.evals] = table.calls
    return {name: array.astype(np.float32) for name, array in found.items()} | {"calls": calls}


def _longer(column: np.ndarray, e: int) -> np.ndarray:
    return np.concatenate([column, np.repeat(column[-1:], e - len(column), axis=0)])
