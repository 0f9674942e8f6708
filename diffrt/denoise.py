"""The loop: a table's rows run one after another over a model. A generator, so that the caller watches or stops it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffrt import image
from diffrt.errors import BundleError
from diffrt.guidance import F32, Model
from diffrt.tables.running import apply_row, denoised, init_slots
from diffrt.tables.table import Table

Settle = Callable[[int, F32], F32]  # (row of the table, x [B,C,h,w]) -> [B,C,h,w]
Colours = tuple[Sequence[Sequence[float]], Sequence[float]]  # matrix [C][3], bias [3]


@dataclass(frozen=True, eq=False)
class Step:
    """What stands after one inference step."""

    index: int  # from 0
    total: int
    timestep: float  # of the step's last evaluation
    latents: F32  # [B,C,h,w]
    denoised: F32  # [B,C,h,w] the model's present estimate of the finished latents
    colours: Colours | None = None

    def preview(self) -> NDArray[np.uint8]:  # [B,h,w,3]
        """The estimate as small pictures, by a linear map and not the decoder. BundleError where there is none."""
        if self.colours is None:
            raise BundleError("the bundle has no preview matrix: export the checkpoint again")
        return image.preview(self.denoised, *self.colours)


def start(table: Table, noise: F32, image: F32 | None = None) -> F32:
    """What a run starts from: unit noise alone, or the latents of an image with as much noise as its first row has.
    All [B,C,h,w]."""
    if image is None:
        return noise * np.float32(table.init_sigma)
    return noised(table, 0, image, noise)


def noised(table: Table, row: int, image: F32, noise: F32) -> F32:
    """alpha * image + sigma * noise at the noise level of a row's x. [B,C,h,w]"""
    return np.float32(table.alpha[row]) * image + np.float32(table.sigma[row]) * noise


def denoise(
    table: Table,
    model: Model,
    x: F32,
    noise: Callable[[int], F32],
    colours: Colours | None = None,
    settle: Settle | None = None,
    correct: Settle | None = None,
) -> Iterator[Step]:
    """Yield after every step. x [B,C,h,w] is what `start` gives; noise(i) draws the noise of row i, of the same shape;
    settle(i, x), where there is one, has the last word on x after evaluation i, and correct(i, x) the first before."""
    slots, x0 = init_slots(table, x), x
    ends = np.append(table.step_of[1:] != table.step_of[:-1], True)
    for i in range(table.evals):
        if correct is not None:
            slots = (correct(i, slots[0]), *slots[1:])
        m = model(slots[0] * np.float32(table.c_in[i]), float(table.t[i]), i) if table.calls[i] else None
        if m is not None and ends[i]:
            x0 = denoised(table, i, slots, m)
        slots = apply_row(table, i, slots, m, noise(i) if table.noisy[i] else None)
        if settle is not None:
            slots = (settle(i, slots[0]), *slots[1:])
        if ends[i]:
            yield Step(int(table.step_of[i]), table.steps, float(table.t[i]), slots[0].copy(), x0, colours)
