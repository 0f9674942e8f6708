"""What a network's output m says about x0 and eps. The only place that knows prediction types."""

import math

import numpy as np

from diffrt.schedulers.grid import Node


def predict(kind: str, at: Node, x: np.ndarray, m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(x0, eps) as linear functions of x = alpha x0 + sigma eps and of the network's output m at that node.

    v is alpha eps - sigma x0 of the variance-preserving x (Salimans & Ho 2022, arXiv:2202.00512, appendix D);
    a VE node is brought there first. The flow is eps - x0 (Liu et al. 2022, arXiv:2209.03003, eq. 1, from data to
    noise). x and m are unit vectors while a table is built.
    """
    if kind == "epsilon":
        return (x - at.sigma * m) / at.alpha, m
    if kind == "sample":
        return m, (x - at.alpha * m) / at.sigma
    if kind == "flow_prediction":
        total = at.alpha + at.sigma
        return (x - at.sigma * m) / total, (x + at.alpha * m) / total
    norm = math.hypot(at.alpha, at.sigma)
    alpha, sigma, u = at.alpha / norm, at.sigma / norm, x / norm
    return alpha * u - sigma * m, sigma * u + alpha * m
