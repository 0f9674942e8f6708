"""Brownian paths that equal torchsde's, one per image: the noise of the SDE solvers that ask for one path of a run.

A path W over [low, high] is a binary tree: its value at the end is drawn first, and halving an interval draws what W
does on the left half given what it does on the whole (the Brownian bridge). So W depends on the seed alone, not on
where or in which order it is read. As torchsde does under diffusers' BrownianTreeNoiseSampler: times are rounded to
1e-6, an interval's draw is seeded by NumPy's SeedSequence of the path's seed and of the interval's place in the tree,
and the arithmetic is float32. Equal to the bit, as far as the normals are (see noise.py).
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from diffrt.noise import F32, RNGS, Stream, TorchCPU, randn
from diffrt.tables.table import Table

f32 = np.float32
Place = tuple[int, int]  # in the tree: number of the interval among those of its depth, depth


class BrownianPath:
    """W over [low, high], W(low) = 0. Times beyond the ends count as the ends. Negative seeds count modulo 2^64."""

    def __init__(
        self, low: float, high: float, seed: int, shape: Sequence[int], stream: Callable[[int], Stream] = TorchCPU
    ) -> None:
        self._low, self._high = rounded(low), rounded(high)
        self._seed, self._shape, self._stream = seed % 2**64, shape, stream
        self._whole = self._normal() * f32(math.sqrt(high - low))
        self._lefts: dict[Place, F32] = {}  # the left halves that the last reading went through

    def __call__(self, a: float, b: float) -> F32:  # [*shape]
        """W(b) - W(a)."""
        first, last = sorted(rounded(min(max(t, self._low), self._high)) for t in (a, b))
        if first == last:
            return np.zeros(self._shape, f32)
        known, self._lefts = self._lefts, {}
        pieces = self._pieces((0, 0), self._low, self._high, self._whole, first, last, known)
        total = sum(pieces, start=next(pieces))
        return total if a < b else -total

    def _pieces(
        self, place: Place, start: float, end: float, whole: F32, first: float, last: float, known: dict[Place, F32]
    ) -> Iterator[F32]:
        """What W adds on the largest intervals of the tree that make up [first, last], which lies in [start, end]."""
        if (first, last) == (start, end):
            yield whole
            return
        middle = rounded(0.5 * (start + end))
        left = known.get(place)
        if left is None:
            share, rest, part = middle - start, end - middle, 1 / (end - start)
            left = f32(share) * whole * f32(part) + f32(math.sqrt(share * rest * part)) * self._normal(place)
        self._lefts[place] = left
        number, depth = place
        if first < middle:
            below = (2 * number, depth + 1)
            yield from self._pieces(below, start, middle, left, first, min(last, middle), known)
        if last > middle:
            below = (2 * number + 1, depth + 1)
            yield from self._pieces(below, middle, end, whole - left, max(first, middle), last, known)

    def _normal(self, place: Place | tuple[()] = ()) -> F32:
        words = np.random.SeedSequence(self._seed, spawn_key=place, pool_size=24).generate_state(1)
        return self._stream(int(words[0])).randn(self._shape)


def rounded(t: float) -> float:
    """To six digits as Python rounds them; NumPy's own numbers would round another way."""
    return round(float(t), 6)


def row_noise(
    table: Table, streams: Sequence[Stream], seeds: Sequence[int], rng: str, shape: Sequence[int]
) -> Callable[[int], F32]:
    """What draws the unit noise of row i, [B,*shape]: the increments of one path for each image where the table asks
    for a path, else what comes next from the streams. A path has its image's seed, unless the table names one: then
    all images have that path, so that none depends on the batch it is made in."""
    path, between = table.path, table.between
    if path is None or between is None:
        return lambda _: randn(streams, shape)
    own = seeds if path.seed is None else [path.seed] * len(seeds)
    paths = [BrownianPath(path.low, path.high, seed, shape, RNGS[rng]) for seed in own]

    def increments(i: int) -> F32:
        a, b = between[i]
        return np.stack([path(a, b) for path in paths]) / np.sqrt(f32(abs(b - a)))

    return increments
