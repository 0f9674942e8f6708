"""Adams methods for semilinear equations: the integral of an exponential times a polynomial through past outputs.

With lambda = log(alpha / sigma), the exact solution of the diffusion ODE from start to end is (Lu et al. 2022,
arXiv:2211.01095, eq. 8, and arXiv:2206.00927, eq. 3.4, where tau = 0; with noise Xue et al. 2023, arXiv:2309.05019,
section 4)

    x' = c x + a k int exp(k (lambda - end)) y(lambda) d lambda

                 y     c                                  a                    k
    data         x0    sigma' / sigma exp(-tau^2 h)       alpha'               1 + tau^2
    noise        eps   alpha' / alpha                     (1 + tau^2) sigma'   -1

An Adams-Bashforth or Adams-Moulton method puts the polynomial through known outputs in place of y.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.polynomial import polynomial


def weights(
    lams: Sequence[float], start: float, end: float, k: float, half: Literal["bh1", "bh2"] | None = None
) -> list[float]:
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
    u = (np.array(lams) - start) / h
    integrals = moments(z, len(u))
    lagrange = [polynomial.polyfromroots(np.delete(u, j)) / np.prod(u[j] - np.delete(u, j)) for j in range(len(u))]
    return [float(np.dot(coefficients, integrals)) for coefficients in lagrange]


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
