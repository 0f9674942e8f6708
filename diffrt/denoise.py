"""The loop: a table's rows run one after another over a model. A generator, so that the caller watches or stops it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffrt import image
from diffrt.errors import BundleError
from diffrt.guidance import F32, Model
from diffrt.schedulers.table import Table, apply_row, denoised, init_slots

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


def denoise(
    table: Table, model: Model, x: F32, noise: Callable[[], F32], colours: Colours | None = None
) -> Iterator[Step]:
    """Yield after every step. x [B,C,h,w] is unit noise; `noise` draws fresh noise of the same shape."""
    slots = init_slots(table, x * np.float32(table.init_sigma))
    ends = np.append(table.step_of[1:] != table.step_of[:-1], True)
    for i in range(table.evals):
        m = model(slots[0] * np.float32(table.c_in[i]), float(table.t[i]))
        if ends[i]:
            x0 = denoised(table, i, slots, m)
        slots = apply_row(table, i, slots, m, noise() if table.noisy[i] else None)
        if ends[i]:
            yield Step(int(table.step_of[i]), table.steps, float(table.t[i]), slots[0].copy(), x0, colours)
