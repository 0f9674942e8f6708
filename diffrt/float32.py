"""logf, sinf and cosf of the Cephes library (Moshier 1992) in NumPy, with fused multiply-adds: the same bits on every
processor, which NumPy's own do not promise."""

import math

import numpy as np
from numpy.typing import NDArray

f32 = np.float32
F32 = NDArray[np.float32]

# logf: ln(1+x) = x - x^2/2 + x^3 P(x); ln 2 = LN2_HIGH + LN2_LOW, LN2_HIGH times an exponent is exact.
LOG_P = np.array(
    [7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
     -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1], f32)  # fmt: skip
LN2_HIGH, LN2_LOW = f32(0.693359375), f32(-2.12194440e-4)
# sinf, cosf: sin x = x + x^3 S(x^2), cos x = 1 - x^2/2 + x^4 C(x^2); pi/2 = the sum of HALF_PI.
SIN_P = np.array([-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1], f32)
COS_P = np.array([2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2], f32)
HALF_PI = np.array([1.5703125, 4.837512969970703125e-4, 7.54978998989e-8], f32)


def fma(a: F32, b: F32 | f32, c: F32 | f32) -> F32:
    """a*b + c as if rounded once: in float64 the product of two float32 is exact.

    The sum rounds twice, to float64 and to float32. For none of the 2^24 values that torch's CPU generator puts into
    log and into cos_sin does that change a bit: each was compared with a true fused multiply-add.
    """
    return (np.multiply(a, b, dtype=np.float64) + c).astype(f32)


def _horner(coefficients: F32, x: F32) -> F32:
    y = coefficients[0]
    for c in coefficients[1:]:
        y = fma(y, x, c)
    return y


def log(u: F32) -> F32:
    """ln u, 0 < u <= 1."""
    mantissa, exponent = np.frexp(u)
    low = mantissa < f32(math.sqrt(0.5))  # bring 1 + x into [sqrt(1/2), sqrt(2))
    x = np.where(low, mantissa + mantissa, mantissa) - f32(1)
    e = (exponent - low).astype(f32)
    z = x * x
    y = fma(_horner(LOG_P, x) * x, z, e * LN2_LOW) - z * f32(0.5)
    return (x + y) + e * LN2_HIGH


def cos_sin(theta: F32) -> tuple[F32, F32]:
    """cos and sin of 0 <= theta <= 2 pi: both polynomials on [-pi/4, pi/4], swapped and signed by quarter."""
    quarter = ((theta * f32(4 / math.pi)).astype(np.int32) + 1) >> 1
    q = quarter.astype(f32)
    x = fma(q, -HALF_PI[2], (theta - q * HALF_PI[0]) - q * HALF_PI[1])
    z = x * x
    cos = fma(_horner(COS_P, z) * z, z, z * f32(-0.5)) + f32(1)
    sin = fma(_horner(SIN_P, z) * z, x, x)
    odd = (quarter & 1).astype(bool)
    cos, sin = np.where(odd, sin, cos), np.where(odd, cos, sin)
    return np.where((quarter + 1) & 2, -cos, cos), np.where(quarter & 2, -sin, sin)
