"""One half of an autoencoder in tiles that give what the whole gives: see exporters/tiles.py.

The group norms' statistics are those of the whole picture. They are found by iteration: every tile answers with its
own, and joined they are exact for the first norm, then for the second that it feeds, and so on. A norm forgets the
scale of what is before it, so that most often fewer rounds than norms are enough.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
Tiled = Callable[[F32, F32, F32, NDArray[np.int64]], tuple[F32, F32]]  # x, norms, fixed, core -> output, stats

CORE = 64  # largest side of a tile without its surroundings, in latent pixels
CLOSE = 1e-3  # a round is the last one where no mean or deviation moved by more, in deviations


class Span(NamedTuple):
    """A tile along one axis, in latent pixels: the part it answers for, and that with its surroundings."""

    start: int
    end: int
    outer_start: int
    outer_end: int


def spans(size: int, halo: int, core: int) -> Iterator[Span]:
    """Tiles of nearly equal size that cover an axis."""
    count = -(-size // core)
    edges = [size * i // count for i in range(count + 1)]
    for start, end in itertools.pairwise(edges):
        yield Span(start, end, max(start - halo, 0), min(end + halo, size))


def run(tiled: Tiled, x: F32, scale_in: int, scale_out: int, halo: int, shape: tuple[int, int, int], core: int) -> F32:
    """x [1,C,h,w] through a tiled graph. scale_in and scale_out are pixels of x and of the output per latent pixel;
    shape is that of the norms, [K,2,G]; core is the largest side of a tile."""
    norms, fixed = np.zeros(shape, np.float32), np.float32(0)
    height, width = (side // scale_in for side in x.shape[2:])
    boxes = [(v, h) for v in spans(height, halo, core) for h in spans(width, halo, core)]
    out: F32 | None = None
    for _ in range(shape[0] + 1):  # by then every norm has had exact ones
        stats, areas = [], []
        for v, h in boxes:
            part = _cut(x, v.outer_start, v.outer_end, h.outer_start, h.outer_end, scale_in)
            top, left = v.start - v.outer_start, h.start - h.outer_start
            bottom, right = v.end - v.outer_start, h.end - h.outer_start
            box = np.array([top, left, bottom, right], np.int64)
            got, own = tiled(np.ascontiguousarray(part), norms, np.asarray(fixed), box)
            if out is None:
                out = np.empty((1, got.shape[1], height * scale_out, width * scale_out), np.float32)
            _cut(out, v.start, v.end, h.start, h.end, scale_out)[:] = _cut(got, top, bottom, left, right, scale_out)
            stats.append(own.astype(np.float64))
            areas.append((v.end - v.start) * (h.end - h.start))
        joined = _join(np.stack(stats), np.array(areas, np.float64))
        moved = _distance(joined, norms) if fixed else np.inf
        norms, fixed = joined.astype(np.float32), np.float32(1)
        if moved < CLOSE or len(boxes) == 1:
            break
    assert out is not None
    return out


def _cut(x: F32, top: int, bottom: int, left: int, right: int, scale: int) -> F32:
    return x[:, :, top * scale : bottom * scale, left * scale : right * scale]


def _join(stats: NDArray[np.float64], areas: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean and variance of all from those of the tiles: [N,K,2,G] and [N] -> [K,2,G]."""
    share = (areas / areas.sum())[:, None, None]
    mean = (stats[:, :, 0] * share).sum(0)
    square = ((stats[:, :, 1] + stats[:, :, 0] ** 2) * share).sum(0)
    return np.stack([mean, square - mean**2], axis=1)


def _distance(new: NDArray[np.float64], old: F32) -> float:
    """The largest change of a mean, and of a deviation, in deviations."""
    deviation = np.sqrt(np.maximum(new[:, 1], 1e-12))
    change = np.stack([new[:, 0] - old[:, 0], deviation - np.sqrt(np.maximum(old[:, 1], 1e-12))])
    return float(np.abs(change / deviation).max())
