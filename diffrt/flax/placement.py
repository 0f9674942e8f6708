"""Where arrays lie: a mesh of devices with the axes "data" and "model".

Pictures of a batch are shared out over "data". Over "model" the large matrices are split, each pair so that what the
first one splits the second one joins (Shoeybi et al. 2019, Megatron-LM, arXiv:1909.08053, section 3).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from diffrt.errors import InvalidArgument

# (how names of tensors end, the side that is split: 0 out, 1 in). What no rule names is on every device.
RULES = (
    (r"(to_q|to_k|to_v|q_proj|k_proj|v_proj|fc1|net\.0\.proj|conv1|time_emb_proj)\.(weight|bias)$", 0),
    (r"norm2\.(weight|bias)$", 0),
    (r"(to_out\.0|out_proj|fc2|net\.2|conv2)\.weight$", 1),
)
SPLIT_PARTS = ("unet", "text_encoder")  # the autoencoder runs once


@dataclass(frozen=True)
class Placement:
    mesh: Mesh

    @property
    def data(self) -> int:
        """Devices that a batch is shared out over."""
        return self.mesh.shape["data"]

    def parameter(self, part: str, name: str, shape: tuple[int, ...]) -> NamedSharding:
        """The layout of a parameter; split only where the devices divide its axis."""
        count = self.mesh.shape["model"]
        for pattern, side in RULES if count > 1 and part in SPLIT_PARTS else ():
            axis = 3 - side if len(shape) == 4 else side  # convolutions are [kh,kw,in,out]
            if re.search(pattern, name) and shape[axis] % count == 0:
                return NamedSharding(self.mesh, P(*[None] * axis, "model"))
        return NamedSharding(self.mesh, P())

    def batch(self, axis: int = 0) -> NamedSharding:
        return NamedSharding(self.mesh, P(*[None] * axis, "data"))

    def padded(self, array: Any, axis: int = 0) -> Array:
        """Shared out along an axis; where the devices do not divide it, the last entry is repeated."""
        array = np.asarray(array)
        missing = -array.shape[axis] % self.data
        last = np.take(array, [-1] * missing, axis)
        return jax.device_put(np.concatenate([array, last], axis), self.batch(axis))

    def everywhere(self, tree: Any) -> Any:
        return jax.device_put(tree, NamedSharding(self.mesh, P()))


def placement(data: int | None = None, model: int = 1, devices: Sequence[jax.Device] | None = None) -> Placement:
    """data x model devices; without `data`, all that there are."""
    here = list(jax.devices() if devices is None else devices)
    for name, value in (("data", 1 if data is None else data), ("model", model)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InvalidArgument(f"mesh axis {name} is {value!r}: give a whole number of at least 1")
    rows = len(here) // model if data is None else data
    if not rows or rows * model > len(here) or (data is None and len(here) % model):
        asked = f"{'data' if data is None else data} x {model}"
        fitting = ", ".join(f"{len(here) // m} x {m}" for m in range(1, len(here) + 1) if len(here) % m == 0)
        raise InvalidArgument(f"a mesh of {asked} devices does not fit the {len(here)} there are; allowed: {fitting}")
    return Placement(Mesh(np.array(here[: rows * model]).reshape(rows, model), ("data", "model")))
