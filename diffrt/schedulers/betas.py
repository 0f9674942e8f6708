"""The training schedule: cumulative products abar_t = alpha_t^2 of every training step.

Built in float32, operation by operation as diffusers builds it, because checkpoints are sampled with exactly
those numbers. Everything after the grid is float64.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise

import numpy as np

from diffrt.errors import InvalidArgument

f32 = np.float32


def linspace(start: float, end: float, n: int) -> np.ndarray:  # [n] f32
    """torch.linspace in float32 with fused multiply-adds; its second half counts back from the end."""
    lo, hi, i = f32(start), f32(end), np.arange(n, dtype=np.float64)
    step = (hi - lo) / f32(max(n - 1, 1))
    return np.where(i < max(n // 2, 1), lo + step * i, hi - step * (n - 1 - i)).astype(f32)


def _cosine(t: float) -> float:
    """Nichol & Dhariwal 2021 (arXiv:2102.09672) eq. 17."""
    return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2


def _laplace(t: float) -> float:
    """Hang et al. 2024 (arXiv:2407.03297), table 1, of width 1/2; the root is the reference's."""
    lam = -0.5 * math.copysign(1, 0.5 - t) * math.log(1 - 2 * abs(0.5 - t) + 1e-6)
    return math.sqrt(1 / (1 + math.exp(-lam)))


ALPHA_BARS = {"squaredcos_cap_v2": _cosine, "laplace": _laplace, "exp": lambda t: math.exp(-12 * t)}


def _capped(alpha_bar: Callable[[float], float], n: int) -> np.ndarray:  # [n] f32
    """The betas of a function of time in [0, 1], capped at 0.999."""
    abar = [alpha_bar(i / n) for i in range(n + 1)]
    return np.array([min(1 - after / before, 0.999) for before, after in pairwise(abar)], f32)


def _sigmoid(start: float, end: float, n: int) -> np.ndarray:  # [n] f32
    """Betas along a logistic curve from -6 to 6 (Xu et al. 2022, GeoDiff, arXiv:2203.02923)."""
    return 1 / (1 + np.exp(-linspace(-6, 6, n))) * f32(end - start) + f32(start)


def _cumprod(a: np.ndarray) -> np.ndarray:  # [T] f32
    """torch.cumprod: a float64 accumulator, rounded at every element."""
    return np.cumprod(a, dtype=np.float64).astype(f32)


def zero_terminal(abar: np.ndarray) -> np.ndarray:  # [T] -> [T], of one dtype
    """Lin et al. 2023 (arXiv:2305.08891) algorithm 1: shift and scale sqrt(abar) so that its last value is 0."""
    root = np.sqrt(abar)
    first, last = root[0], root[-1]
    return np.square((root - last) * (first / (first - last)))


Given = tuple[float, ...] | None  # trained_betas, which take the place of start, end and schedule


def betas_of(n: int, start: float, end: float, schedule: str, given: Given = None) -> np.ndarray:  # [T] f32
    """beta_t of every one of n training steps. Raises InvalidArgument where one is outside (0, 1]."""
    if given is not None:
        betas = np.array(given, f32)
    elif schedule == "linear":
        betas = linspace(start, end, n)
    elif schedule == "scaled_linear":
        betas = np.square(linspace(math.sqrt(max(start, 0)), math.sqrt(max(end, 0)), n))
    elif schedule == "sigmoid":
        betas = _sigmoid(start, end, n)
    else:
        betas = _capped(ALPHA_BARS[schedule], n)
    if len(betas) != n or not np.all((betas > 0) & (betas <= 1)):
        extent = f" from {betas.min():g} to {betas.max():g}" if len(betas) else ""
        raise InvalidArgument(f"{len(betas)} betas{extent}, needed: {n} (num_train_timesteps), above 0 and at most 1")
    return betas


@lru_cache(maxsize=64)
def alphas_cumprod(
    n: int, start: float, end: float, schedule: str, given: Given = None, terminal: float | None = None
) -> np.ndarray:  # [T] f32, read-only
    """abar_t of every training step; `terminal` rescales it to zero terminal SNR and then sets its last value."""
    betas = betas_of(n, start, end, schedule, given)
    if terminal is not None:
        rescaled = zero_terminal(_cumprod(1 - betas))
        betas = 1 - np.concatenate([rescaled[:1], rescaled[1:] / rescaled[:-1]])
    abar = _cumprod(1 - betas)
    if terminal is not None:
        abar[-1] = terminal
    abar.setflags(write=False)
    return abar


def sigmas_of(abar: np.ndarray) -> np.ndarray:  # [T] f32
    """Noise-to-signal ratio sqrt((1 - abar) / abar) of every training step."""
    with np.errstate(divide="ignore", over="ignore"):
        return np.sqrt((1 - abar) / abar)
