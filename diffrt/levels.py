"""Denoisers that are told sigma and give the picture: D(x; sigma) of x = x0 + sigma eps is x0 (Karras et al. 2022,
arXiv:2206.00364, equations 2 and 3). However their network is scaled and read is inside of them.

Any table runs one. A row stands at x = alpha x0 + sigma eps and reads its network as x0 = p x + q m, so what the
network would have said is m = (D(x / alpha; sigma / alpha) - p x) / q.
"""

import numpy as np

from diffrt.errors import InvalidArgument
from diffrt.guidance import F32, Model
from diffrt.tables.table import Table


def of_levels(denoiser: Model, table: Table) -> Model:
    """The network that the table calls, of a denoiser (x [B,C,h,w], sigma, row) -> x0 [B,C,h,w]. InvalidArgument for a
    run that begins at noise alone, which no sigma tells, and for one that reads a variance."""
    if table.spread is not None:
        raise InvalidArgument(
            "the scheduler's variance_type is learned, and this model says nothing of it: use another"
        )
    called = table.calls
    if not (table.alpha[called] > 0).all() or not table.qx0[called].all():
        raise InvalidArgument(
            "this model is told sigma, the noise beside a picture of size 1, and the run has a step at noise alone: "
            "take a scheduler without rescale_betas_zero_snr that is none of flow matching"
        )

    c_in, alpha, p, q = (column.astype(np.float32) for column in (table.c_in, table.alpha, table.px0, table.qx0))

    def model(x: F32, t: float, row: int) -> F32:
        whole = x / c_in[row]
        x0 = denoiser(whole / alpha[row], float(table.sigma[row] / table.alpha[row]), row)
        return (x0 - p[row] * whole) / q[row]

    return model
