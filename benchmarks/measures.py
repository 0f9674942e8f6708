"""Taking turns, and what is made of the times and outputs."""

import statistics
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.processes import Failed

LEAST_SECONDS = 8.0  # of a contender's rounds together: where runs are short there are more of them
MOST_ROUNDS = 15


class Runner(Protocol):
    def run(self, times: int = 1) -> list[float]: ...


def alternate(baseline: Runner, contender: Runner, rounds: int) -> tuple[list[float], list[float]]:
    """A B A B ...: seconds of each."""
    a: list[float] = []
    b: list[float] = []
    for _ in range(rounds):
        a += baseline.run()
        b += contender.run()
    return a, b


def take_turns(baseline: Runner, contender: Runner, least: int) -> tuple[list[float], list[float]]:
    """`least` rounds, and more where those were short. (What a first run takes says little: it may have compiled.)"""
    a, b = alternate(baseline, contender, least)
    more = alternate(baseline, contender, rounds_of(least, min(a), min(b)) - least)
    return a + more[0], b + more[1]


def rounds_of(least: int, one: float, other: float) -> int:
    return max(least, min(MOST_ROUNDS, int(LEAST_SECONDS / (one + other))))


def spread(seconds: list[float]) -> dict[str, Any]:
    return {
        "rounds": len(seconds),
        "median_seconds": statistics.median(seconds),
        "min_seconds": min(seconds),
        "max_seconds": max(seconds),
    }


def compare(reference: NDArray[Any], got: NDArray[Any]) -> dict[str, float]:
    """How far an output is from the baseline's; the PSNR of pictures of 8 bits."""
    if reference.shape != got.shape:
        raise Failed(f"gives an output of shape {list(got.shape)}; the baseline's is {list(reference.shape)}")
    a, b = (x.astype(np.float64) for x in (reference, got))
    if not np.isfinite(b).all():
        raise Failed("gives NaN or infinity")
    found = {"error": float(np.linalg.norm(a - b) / max(float(np.linalg.norm(a)), 1e-30))}
    if reference.dtype == np.uint8 and found["error"]:
        found["psnr"] = float(10 * np.log10(255**2 / np.mean((a - b) ** 2)))
    return found
