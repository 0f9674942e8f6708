"""A table as the arrays that the other two interpreters take as inputs: the ONNX graph of exporters/loop.py and the
JAX function of diffrt/flax/sampling.py. Arrays of one shape run through one graph, whatever scheduler made them."""

import numpy as np

from diffrt.errors import InvalidArgument
from diffrt.schedulers.table import Table

COLUMNS = ("t", "c_in", "p", "q", "W", "calls", "log_std")  # one row for each evaluation


def arrays(
    table: Table, evals: int | None = None, slots: int | None = None, denoised: bool = False
) -> dict[str, np.ndarray]:
    """All float32 but `calls`:

    t, c_in, p, q   [E]
    W               [E,S,S+3]  columns: slots, y, m, z. Where y is not shaped its column is 0 and so is what it would be
    calls           [E] bool   which rows read the model's output
    clip            []         y is clipped to [-clip, clip]; infinite: it is not
    threshold       [2]        the quantile and the limit; only where y is thresholded
    log_std         [E,2]      only where the network says between which two the width of z is ("range")

    Up to `evals` rows are added that change nothing and call no model, and up to `slots` slots that stay as they are.
    With `denoised` there is one slot more than the table has, or is asked for: the last one is the clean picture that
    the model last saw.
    """
    e, s = evals or table.evals, (slots or len(table.slots)) + denoised
    if e < table.evals or s < len(table.slots) + denoised:
        raise InvalidArgument(f"{e} rows of {s} slots cannot hold a table of {table.evals} of {len(table.slots)}")
    shaped = table.clip is not None or table.threshold is not None
    W = np.zeros((e, s, s + 3))
    W[:, :, :s] = np.eye(s)
    within = [*range(len(table.slots)), s, s + 1, s + 2]
    W[: table.evals, : len(table.slots), within] = table.folded
    if denoised:
        W[: table.evals][table.calls, -1] = _seen(table, s)[table.calls]
    found = {
        "t": _longer(table.t, e),
        "c_in": _longer(table.c_in, e),
        "p": _longer(table.p * shaped, e),
        "q": _longer(table.q * shaped, e),
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


def _seen(table: Table, slots: int) -> np.ndarray:  # [E,S+3]
    """The clean picture as a row of W: y where that is shaped, else a sum of x and m."""
    seen = np.zeros((table.evals, slots + 3))
    if table.clip is not None or table.threshold is not None:
        seen[:, -3] = 1
    else:
        seen[:, 0], seen[:, -2] = table.px0, table.qx0
    return seen


def single_inputs(table: Table) -> dict[str, np.ndarray]:
    """A table as the inputs of a single graph (`diffrt export --form single`) that stand for it, with as many inference
    steps as it has. Where a run has none of the graph's own noise, see docs/embedding.md.

    table_t, table_c_in, table_p, table_q, table_init_sigma   [E] f32
    table_W      [E,S+1,S+4] f32, the last slot is the clean picture that the model last saw
    table_steps  [E] i64, of which number of inference steps each row is
    table_clip   [] f32
    """
    if table.threshold is not None or table.spread is not None:
        raise InvalidArgument("a single graph takes no thresholding and no learned variance_type: choose others")
    rows = arrays(table, denoised=True)
    rows["init_sigma"] = np.full(table.evals, table.init_sigma, np.float32)
    rows["steps"] = np.full(table.evals, table.steps)
    return {f"table_{name}": column for name, column in rows.items() if name != "calls"}


def _longer(column: np.ndarray, e: int) -> np.ndarray:
    return np.concatenate([column, np.repeat(column[-1:], e - len(column), axis=0)])
