"""Quantiles of the beta distribution, which beta-spaced sigmas follow (Lee et al. 2024, arXiv:2407.12173)."""

import math

import numpy as np

TERMS = 60  # of the continued fraction, below the mean: more change nothing for a, b near 1


def beta_cdf(x: np.ndarray, a: float, b: float) -> np.ndarray:  # [n] f64 in [0, 1] -> [n] f64
    """The regularized incomplete beta function I_x(a, b): NIST's DLMF 8.17.22, and 8.17.4 above the mean."""
    flip = x > (a + 1) / (a + b + 2)
    return np.where(flip, 1 - _below(np.where(flip, 1 - x, 0), b, a), _below(np.where(flip, 0, x), a, b))


def _below(x: np.ndarray, a: float, b: float) -> np.ndarray:
    fraction = np.ones_like(x)
    for k in range(TERMS, 0, -1):
        m = k // 2
        if k % 2:
            d = -(a + m) * (a + b + m) / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            d = m * (b - m) / ((a + 2 * m - 1) * (a + 2 * m))
        fraction = 1 + d * x / fraction
    return np.power(x, a) * np.power(1 - x, b) / (a * _beta(a, b) * fraction)


def _beta(a: float, b: float) -> float:
    return math.exp(math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b))


def beta_quantile(p: np.ndarray, a: float, b: float) -> np.ndarray:  # [n] f64 in [0, 1] -> [n] f64
    """The x with I_x(a, b) = p: halving an interval, then Newton's steps within it."""
    low, high = np.zeros_like(p), np.ones_like(p)
    for _ in range(20):
        middle = (low + high) / 2
        below = beta_cdf(middle, a, b) < p
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    x = (low + high) / 2
    for _ in range(6):
        slope = np.power(x, a - 1) * np.power(1 - x, b - 1) / _beta(a, b)
        x = np.clip(x - (beta_cdf(x, a, b) - p) / slope, low, high)
        x = np.clip(x, 1e-300, np.nextafter(1, 0))
    return np.where(p <= 0, 0.0, np.where(p >= 1, 1.0, x))
