"""Quantiles of the symmetric beta distribution, which beta-spaced sigmas follow (Lee et al. 2024, arXiv:2407.12173)."""

import math

import numpy as np

TERMS = 60  # of the continued fraction, below the mean: more change nothing for a near 1


def beta_cdf(x: np.ndarray, a: float) -> np.ndarray:  # [n] f64 in [0, 1] -> [n] f64
    """The regularized incomplete beta function I_x(a, a): NIST's DLMF 8.17.22, and 8.17.4 above the mean."""
    tail, fraction = np.minimum(x, 1 - x), np.ones_like(x)
    for k in range(TERMS, 0, -1):
        m = k // 2
        d = (-(a + m) * (2 * a + m) if k % 2 else m * (a - m)) / ((a + k - 1) * (a + k))
        fraction = 1 + d * tail / fraction
    below = np.power(tail * (1 - tail), a) / (a * _beta(a) * fraction)
    return np.where(x > 0.5, 1 - below, below)


def _beta(a: float) -> float:
    return math.exp(2 * math.lgamma(a) - math.lgamma(2 * a))


def beta_quantile(p: np.ndarray, a: float) -> np.ndarray:  # [n] f64 in [0, 1] -> [n] f64
    """The x with I_x(a, a) = p: halving an interval, then Newton's steps within it."""
    low, high = np.zeros_like(p), np.ones_like(p)
    for _ in range(20):
        middle = (low + high) / 2
        below = beta_cdf(middle, a) < p
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    x = (low + high) / 2
    for _ in range(6):
        slope = np.power(x * (1 - x), a - 1) / _beta(a)
        x = np.clip(x - (beta_cdf(x, a) - p) / slope, low, high)
        x = np.clip(x, 1e-300, np.nextafter(1, 0))
    return np.where(p <= 0, 0.0, np.where(p >= 1, 1.0, x))
