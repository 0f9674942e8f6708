"""Exponential integrators: exact but for a polynomial through past outputs, whose integral is closed form.

With lambda = log(alpha / sigma), h the step in it and noise scaled by tau (0: the ODE, 1: the reverse SDE), the
diffusion equation's solution from start to end is (Lu et al. 2022, arXiv:2206.00927, eq. 3.4, and arXiv:2211.01095,
eq. 8; with noise Xue et al. 2023, arXiv:2309.05019, section 4)

    x' = c x + a k int exp(k (lambda - end)) y(lambda) d lambda + b z

             y     c                                  a                    k            b
    data     x0    sigma' / sigma exp(-tau^2 h)       alpha'               1 + tau^2    sigma' sqrt(1 - exp(-2 tau^2 h))
    noise    eps   alpha' / alpha                     (1 + tau^2) sigma'   -1           tau sigma' sqrt(exp(2h) - 1)

An Adams-Bashforth or Adams-Moulton method puts the polynomial through known outputs in place of y (`weights`);
DPM-Solver expands y where the step begins (dpm.py).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.polynomial import polynomial

from diffrt.errors import InvalidArgument
from diffrt.schedulers.grid import Grid, Node
from diffrt.schedulers.onestep import Read
from diffrt.schedulers.rows import Form, Rows, combined
from diffrt.tables.table import Table

Half = Literal["bh1", "bh2"] | None
Weigh = Callable[[Sequence[float], float, float, float], Sequence[float]]


@dataclass(frozen=True)
class Integrand:
    """The y of the table above, of a network that is read so: x0 where `data`, else eps. A threshold acts on x0; what
    it leaves says what eps is."""

    read: Read
    data: bool
    shaped: bool = False

    def at(self, node: Node, rows: Rows) -> tuple[Form, Form, Form]:
        """(x0, what the table's y is of x and m, the y of the formula)."""
        x0, eps = self.read(node, rows.x, rows.m)
        if self.data:
            return x0, x0, rows.y
        if self.shaped:
            return x0, x0, (rows.x - node.alpha * rows.y) / node.sigma
        return x0, eps, rows.y


def gap(at: Node, to: Node) -> float:
    """h; 0 where a step from sigma_min to sigma_min is one but for float32."""
    h = to.lam - at.lam
    return 0.0 if -1e-5 < h < 1e-9 else h


def coefficients(at: Node, to: Node, data: bool, tau: float) -> tuple[float, float, float, float]:
    """(c, a, k, b) of the table above."""
    h = gap(at, to)
    if h < 0 and tau:
        raise InvalidArgument(
            f"a method that adds noise cannot step up, from sigma = {at.sigma:g} to {to.sigma:g}: "
            "take fewer steps, or set final_sigmas_type to zero"
        )
    if data:
        spent = tau**2 * h if tau else 0.0  # h may be infinite
        noise = to.sigma * math.sqrt(-math.expm1(-2 * spent))
        return to.sigma / at.sigma * math.exp(-spent), to.alpha, 1 + tau**2, noise
    noise = tau * to.sigma * math.sqrt(math.expm1(2 * h)) if tau else 0.0
    return to.alpha / at.alpha, (1 + tau**2) * to.sigma, -1, noise


def weights(lams: Sequence[float], start: float, end: float, k: float, half: Half = None) -> list[float]:
    """What k int exp(k (lambda - end)) y(lambda) d lambda is of outputs y made at lams.

    `half` takes the integral of the slope of two outputs to be half of what it would be at the end: h B / 2 with
    B = k h (bh1) or 1 - exp(-k h) (bh2), as in UniPC.
    """
    h = end - start
    z = k * h
    whole = -math.expm1(-z)
    if len(lams) == 1:
        return [whole]
    if h == 0:
        return [0.0] * len(lams)
    if half and len(lams) == 2:
        slope = h / 2 * (z if half == "bh1" else whole) / (lams[0] - lams[1])
        return [slope + whole, -slope] if lams[0] == start else [slope, whole - slope]
    return [float(weight) for weight in lagrange((np.array(lams) - start) / h) @ moments(z, len(lams))]


def lagrange(u: np.ndarray) -> np.ndarray:  # [n] -> [n, n]
    """The coefficients of the polynomials that are 1 at one of these and 0 at the others, of u^0, u^1, ..."""
    others = [np.delete(u, j) for j in range(len(u))]
    return np.array([polynomial.polyfromroots(o) / np.prod(here - o) for here, o in zip(u, others, strict=True)])


def moments(z: float, count: int) -> np.ndarray:  # [count] f64
    """z times the integrals of exp(-z (1 - u)) u^i over [0, 1], i = 0, 1, ...: by parts, or where digits would
    cancel by their series."""
    if abs(z) < 1:
        f, rows = [math.factorial(j) for j in range(count + 21)], range(count)
        return np.array([z * sum((-z) ** n * f[i] / f[i + n + 1] for n in range(20)) for i in rows])
    values = [-math.expm1(-z)]
    for i in range(1, count):
        values.append(1 - i / z * values[-1])
    return np.array(values)


def multistep(
    grid: Grid,
    integrand: Integrand,
    predictor: Sequence[int],
    corrector: Sequence[int] | None = None,
    memory: int = 0,
    weigh: Weigh = weights,
    tau: Callable[[Node], float] = lambda at: 0.0,
    **how: Any,
) -> Table:
    """The table of a method that remembers so many past outputs.

    `predictor` is the order of each step. `corrector` [n], where there is one, is that of the step once more when the
    output at its end is known; 0 leaves it as it is. It goes with the same draw, and costs no evaluation. `weigh` is
    `weights`, or what stands for it.
    """
    # ahead: where the step before leads by the outputs that were there. The newest one corrects it.
    names = [] if corrector is None else ["ahead"]
    rows = Rows("x", *names, *(f"y{j}" for j in range(1, memory + 1)))
    lams, newest = [node.lam for node in grid.distinct().at], 0.0
    for k, (at, to) in enumerate(grid):
        x0, reads, y = integrand.at(at, rows)
        x = rows.slots[1] + newest * y if newest else rows.x
        outputs = (y, *rows.slots[1 + len(names) :])
        c, a, rate, b = coefficients(at, to, integrand.data, tau(at))
        end = to.lam if gap(at, to) else at.lam
        moved = c * x + b * rows.z
        x_next = moved + a * combined(weigh(lams[k::-1][: predictor[k]], at.lam, end, rate), outputs)
        newest, ahead = 0.0, 0 * x
        if corrector is not None and corrector[k]:
            first, *others = weigh(lams[k + 1 :: -1][: corrector[k]], at.lam, end, rate)
            newest, ahead = a * first, moved + a * combined(others, outputs)
        then = [x_next, ahead, *outputs] if names else [x_next, *outputs]
        rows.add(k, at, y=reads, x0=x0, then=then[: len(rows.slots)])
    return rows.table(grid, **how)
