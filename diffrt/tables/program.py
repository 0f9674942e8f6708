"""A row of a table as NumPy runs it: weighted sums, block by block.

All sums of one block are made before the next, so that what they read is fetched once and a clipped y never leaves the
cache. A slot that becomes another array as it stands costs nothing, nor does one that becomes 0.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

Sum = list[tuple[int, float]]  # values, by number, and what they are multiplied by
BLOCK = 1 << 15  # elements; the float32 blocks that a row reads and makes fit the second-level cache


@dataclass(frozen=True)
class Program:
    """Values have numbers: first the terms [slots; y; m; z], then what is made for each slot."""

    sums: Mapping[int, Sum]  # what is made, in this order
    then: Sequence[int | None]  # [S] what each slot becomes; None is 0

    @classmethod
    def of(cls, W: np.ndarray, y: Sequence[float] = ()) -> "Program":  # [S, S + 3]
        """`y`: (p, q) of a y that is made where W reads it; else it is given."""
        slots, terms = W.shape
        sums = {slots: _sum([(0, y[0]), (slots + 1, y[1])])} if len(y) and W[:, slots].any() else {}
        then: list[int | None] = []
        for k, row in enumerate(W, terms):
            found = _sum(enumerate(row))
            if len(found) > 1 or (found and found[0][1] != 1):
                sums[k] = found
                then.append(k)
            else:
                then.append(found[0][0] if found else None)
        return cls(sums, then)

    @cached_property
    def reads(self) -> set[int]:
        return {j for s in self.sums.values() for j, _ in s} - set(self.sums)

    def run(
        self, terms: Sequence[Any], like: np.ndarray, clip: float | None = None
    ) -> tuple[Any, ...]:  # [S + 3] of [B, ...] -> [S] of [B, ...]
        """The slots after the row, of the dtype and shape of `like`. A y that is made is clipped to [-clip, clip]."""
        dtype, size, room, y = like.dtype, like.size, min(BLOCK, like.size), len(self.then)
        made = {k: np.empty(room if k == y and y not in self.then else like.shape, dtype) for k in self.sums}
        flat = [(k, made[k].reshape(-1)) for k in made] + [(k, np.asarray(terms[k]).reshape(-1)) for k in self.reads]
        sums = [(k, [(j, None if w == 1 else np.array(w, dtype)) for j, w in s]) for k, s in self.sums.items()]
        spare = np.empty(room, dtype)
        for start in range(0, size, BLOCK):
            here, rest = slice(start, start + BLOCK), slice(size - start)
            block = {k: array[here if len(array) == size else rest] for k, array in flat}
            for k, ((j, w), *others) in sums:
                total = np.multiply(block[j], 1 if w is None else w, block[k])
                for j, w in others:
                    np.add(total, block[j] if w is None else np.multiply(block[j], w, spare[rest]), total)
                if k == y and clip is not None:
                    total.clip(-clip, clip, total)
        found = dict(enumerate(terms)) | made
        if None in self.then:
            found[None] = np.broadcast_to(dtype.type(0), like.shape)
        return tuple(found[k] for k in self.then)


def _sum(weights: Iterable[tuple[int, float]]) -> Sum:
    """Without zeros, and last what needs no product."""
    return sorted(((j, float(w)) for j, w in weights if w), key=lambda term: term[1] == 1)
