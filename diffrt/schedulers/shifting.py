"""Noise levels of flow models: x = (1 - sigma) x0 + sigma eps with sigma in [0, 1], and where they are shifted to.

A larger picture keeps its structure under more noise, so its steps belong at higher levels: Esser et al. 2024
(arXiv:2403.03206, eq. 23). Functions keep the dtype of their array, and the order of operations that diffusers has.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from diffrt.errors import InvalidArgument
from diffrt.schedulers.grid import Node


def flow_node(t: float, sigma: float) -> Node:
    """The node x = (1 - sigma) x0 + sigma eps."""
    return Node(float(t), 1 - float(sigma), float(sigma))


def shifted(sigmas: np.ndarray, shift: float) -> np.ndarray:  # [n] -> [n]
    """The static shift: a noise-to-signal ratio sigma / (1 - sigma) becomes `shift` times as large."""
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def picture_mu(config: Mapping[str, Any], tokens: int) -> float:
    """The mu of a picture of so many tokens, by a scheduler's config: linear between base_shift and max_shift."""
    least, most = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    if least is None or most is None:
        raise InvalidArgument("base_shift and max_shift are needed for mu: set both")
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    return least + (most - least) / (many - few) * (tokens - few)


def time_shifted(sigmas: np.ndarray, mu: float, kind: str) -> np.ndarray:  # [n] -> [n]
    """Shifted by what mu stands for; in float32 not quite what `shifted` makes of that."""
    shift = dynamic_shift(mu, kind)
    with np.errstate(divide="ignore"):  # sigma = 0 stays there
        return shift / (shift + (1 / sigmas - 1))


def dynamic_shift(mu: float, kind: str) -> float:
    """The static shift that the mu of a picture's size stands for: exp(mu) ("exponential") or mu ("linear")."""
    low, high = (-50, 50) if kind == "exponential" else (1e-6, 1e6)
    if not isinstance(mu, (int, float, np.number)) or not low <= mu <= high:
        raise InvalidArgument(f"mu = {mu!r}, allowed with time_shift_type {kind}: from {low:g} to {high:g}")
    return math.exp(mu) if kind == "exponential" else float(mu)


def stretched(sigmas: np.ndarray, terminal: float) -> np.ndarray:  # [n] -> [n]
    """The levels' distances from 1 scaled alike, so that the last level is `terminal`."""
    if sigmas[-1] >= 1:
        raise InvalidArgument(
            f"shift_terminal has no room at sigma = {sigmas[-1]:g}: give smaller sigmas or more steps"
        )
    return 1 - (1 - sigmas) / ((1 - sigmas[-1]) / (1 - terminal))
