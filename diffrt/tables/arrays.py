"""A table as the arrays that the other two interpreters take as inputs: the ONNX graph of exporters/loop.py and the
JAX function of diffrt/flax/sampling.py. Arrays of one shape run through one graph, whatever scheduler made them."""

import numpy as np

from diffrt.errors import InvalidArgument
from diffrt.tables.table import Table

COLUMNS = ("t", "c_in", "p", "q", "W", "calls", "log_std")  # one row for each evaluation


def arrays(
    table: Table, evals: int | None = None, slots: int | None = None, denoised: bool = False
) -> dict[str, np.ndarray]:
    """All float32 but `calls`:

    t, c_in, p, q   [E]
    W               [E,S,S+3]  columns: slots, y, m, z. Where no slot reads y, p and q are 0
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
    reads = table.folded[:, :, -3].any(axis=1)
    W = np.zeros((e, s, s + 3))
    W[:, :, :s] = np.eye(s)
    within = [*range(len(table.slots)), s, s + 1, s + 2]
    W[: table.evals, : len(table.slots), within] = table.folded
    if denoised:
        W[: table.evals][table.calls, -1] = _seen(table, s)[table.calls]
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


def _seen(table: Table, slots: int) -> np.ndarray:  # [E,S+3]
    """The clean picture as a row of W: y where that is shaped, else a sum of x and m."""
    seen = np.zeros((table.evals, slots + 3))
    if table.clip is not None or table.threshold is not None:
        seen[:, -3] = 1
    else:
        seen[:, 0], seen[:, -2] = table.px0, table.qx0
    return seen


def single_inputs(table: Table, last: tuple[int, int] | None = None) -> dict[str, np.ndarray]:
    """A table as the inputs of a single graph (`diffrt export --form single`), for a run of its number of steps. The
    noise of a Brownian path must be fed too: docs/embedding.md. For a graph that begins with a picture, `last` = (k, n)
    says that the table is of the last k of n steps, which is `scheduler.table(n, skip=n - k)`.

    table_t, table_c_in, table_p, table_q, table_init_sigma   [E] f32
    table_W      [E,S+1,S+4] f32, the last slot is the clean picture that the model last saw
    table_steps  [E] i64, of which number of inference steps each row is
    table_clip   [] f32
    with `last`  table_run [E] i64, of how many steps that are run each row is; table_alpha, table_sigma [E] f32, the
                 noise level of x before each row
    """
    if table.threshold is not None or table.spread is not None:
        raise InvalidArgument("a single graph takes no thresholding and no learned variance_type: choose others")
    rows = arrays(table, denoised=True)
    rows["init_sigma"] = np.full(table.evals, table.init_sigma, np.float32)
    rows["steps"] = np.full(table.evals, table.steps)
    if last is not None:
        rows |= {"run": np.full(table.evals, last[0]), "steps": np.full(table.evals, last[1])}
        rows |= {"alpha": table.alpha.astype(np.float32), "sigma": table.sigma.astype(np.float32)}
    return {f"table_{name}": column for name, column in rows.items() if name != "calls"}


def _longer(column: np.ndarray, e: int) -> np.ndarray:
    return np.concatenate([column, np.repeat(column[-1:], e - len(column), axis=0)])
