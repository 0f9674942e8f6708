"""What a call tells a model in arrays, under the names of its denoiser's inputs: of models that someone brought."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffrt.arguments import shown
from diffrt.errors import InvalidArgument
from diffrt.guidance import Conditions
from diffrt.manifest import Manifest, TensorSpec

FILLED = ("sample", "timestep", "sigma", "time_ids", "guidance", "noise_level")  # inputs that other arguments fill
KINDS = {"float32": "fiu", "int64": "iu"}  # an input's dtype -> kinds of arrays that it takes


def open_inputs(manifest: Manifest) -> dict[str, TensorSpec]:
    """The denoiser's inputs that only `conditions` can fill; of a manifest without graphs none."""
    component = manifest.components.get(manifest.denoiser)
    filled = {*FILLED, *manifest.conditions, *(("class_labels",) if manifest.classes else ())}
    return {} if component is None else {spec.name: spec for spec in component.inputs if spec.name not in filled}


def checked(name: str, given: Any, inputs: Mapping[str, TensorSpec], count: int) -> Conditions:
    """The arrays [count,...] of every open input, from a mapping of arrays [1 or count,...]. InvalidArgument for one
    that is missing, unknown or of another shape or kind; axes of any size are checked where the graph runs."""
    arrays = {} if given is None else given
    if not isinstance(arrays, Mapping) or set(arrays) != set(inputs):
        wanted = ", ".join(f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in inputs.values())
        got = ", ".join(map(str, arrays)) or "nothing" if isinstance(arrays, Mapping) else shown(given)
        what = f"this model is told of {wanted}: give an array for each" if inputs else "this model takes none"
        raise InvalidArgument(f"{name} has {got}; {what}")
    return {key: _array(f"{name}[{key!r}]", arrays[key], spec, count) for key, spec in inputs.items()}


def _array(name: str, value: Any, spec: TensorSpec, count: int) -> NDArray[Any]:
    array = np.asarray(value) if isinstance(value, list | tuple | np.ndarray) else np.array(None)
    fits = array.ndim == len(spec.shape) and len(array) in (1, count) and array.dtype.kind in KINDS[spec.dtype]
    for axis, size in zip(spec.shape[1:], array.shape[1:], strict=False):
        fits = fits and (isinstance(axis, str) or axis == size)
    if not fits:
        shape = [f"1 or {count}" if count > 1 else "1", *map(str, spec.shape[1:])]
        raise InvalidArgument(f"{name} is {shown(value)}: give a {spec.dtype} array of shape [{', '.join(shape)}]")
    if not np.isfinite(array).all():
        raise InvalidArgument(f"{name} holds NaN or infinity: give finite numbers")
    return array.astype(spec.dtype).repeat(count // len(array), axis=0)
