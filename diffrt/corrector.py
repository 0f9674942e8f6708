"""Corrections between the rows of a table, of schedulers whose x is not left to the predictor alone: steps at a fixed
noise level, with a size that depends on what the model says (Song et al. 2020, arXiv:2011.13456, algorithm 1)."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from diffrt.guidance import F32, Model
from diffrt.noise import Stream, randn
from diffrt.schedulers import Table


@runtime_checkable
class Corrector(Protocol):
    correct_steps: int

    def correct(self, x: F32, score: F32, noise: F32) -> F32: ...  # all [B, ...]


def corrections(
    scheduler: Corrector, table: Table, streams: Sequence[Stream], model: Model
) -> Callable[[int, F32], F32]:
    """What corrects x [B,C,h,w] before row i of the scheduler's table.

    The size of a step goes with norms, of which the reference takes the mean over the batch. Here they are each
    picture's own: none depends on those that it is drawn with.
    """

    def correct(i: int, x: F32) -> F32:
        for _ in range(scheduler.correct_steps):
            score, z = model(x * np.float32(table.c_in[i]), float(table.t[i]), i), randn(streams, x.shape[1:])
            each = zip(x, score, z, strict=True)
            x = np.stack([scheduler.correct(*(array[None] for array in one))[0] for one in each])
        return x

    return correct
