"""The training schedule: cumulative products abar_t = alpha_t^2 of every training step.

Built in float32, operation by operation as diffusers builds it, because checkpoints are sampled with exactly
those numbers. Everything after the grid is float64.
"""

import math
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


def _squaredcos(n: int) -> np.ndarray:  # [n] f32
    """Nichol & Dhariwal 2021 (arXiv:2102.09672) eq. 17, betas capped at 0.999."""
    abar = [math.cos((i / n + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(n + 1)]
    return np.array([min(1 - after / before, 0.999) for before, after in pairwise(abar)], f32)


def _cumprod(a: np.ndarray) -> np.ndarray:  # [T] f32
    """torch.cumprod: a float64 accumulator, rounded at every element."""
    return np.cumprod(a, dtype=np.float64).astype(f32)


def _zero_terminal_snr(betas: np.ndarray) -> np.ndarray:  # [T] f32
    """Lin et al. 2023 (arXiv:2305.08891) algorithm 1: shift and scale sqrt(abar) so that its last value is 0."""
    root = np.sqrt(_cumprod(1 - betas))
    first, last = root[0], root[-1]
    abar = np.square((root - last) * (first / (first - last)))
    return 1 - np.concatenate([abar[:1], abar[1:] / abar[:-1]])


@lru_cache(maxsize=64)
def alphas_cumprod(
    num_train_timesteps: int,
    beta_start: float,
    beta_end: float,
    beta_schedule: str,
    trained_betas: tuple[float, ...] | None = None,
    terminal: float | None = None,
) -> np.ndarray:  # [T] f32, read-only
    """abar_t of every training step; `terminal` rescales it to zero terminal SNR and then sets its last value.

    Raises InvalidArgument where a beta is outside (0, 1].
    """
    n = num_train_timesteps
    if trained_betas is not None:
        betas = np.array(trained_betas, f32)
    elif beta_schedule == "linear":
        betas = linspace(beta_start, beta_end, n)
    elif beta_schedule == "scaled_linear":
        betas = np.square(linspace(math.sqrt(max(beta_start, 0)), math.sqrt(max(beta_end, 0)), n))
    else:
        betas = _squaredcos(n)
    if len(betas) != n or not np.all((betas > 0) & (betas <= 1)):
        extent = f" from {betas.min():g} to {betas.max():g}" if len(betas) else ""
        raise InvalidArgument(
            f"got {len(betas)} betas{extent}: {n} are needed (num_train_timesteps), each above 0 and at most 1"
        )
    abar = _cumprod(1 - (betas if terminal is None else _zero_terminal_snr(betas)))
    if terminal is not None:
        abar[-1] = terminal
    abar.setflags(write=False)
    return abar


def sigmas_of(abar: np.ndarray) -> np.ndarray:  # [T] f32
    """Noise-to-signal ratio sqrt((1 - abar) / abar) of every training step."""
    with np.errstate(divide="ignore", over="ignore"):
        return np.sqrt((1 - abar) / abar)
