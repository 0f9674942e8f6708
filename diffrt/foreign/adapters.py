"""Between the component contract and a graph that another program wrote: its names, ranks and dtypes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffrt.errors import BundleError
from diffrt.manifest import ComponentSpec, TensorSpec
from diffrt.onnx_file import GraphFile, Value

Arrays = dict[str, NDArray[Any]]
Run = Callable[[Mapping[str, NDArray[Any]], Sequence[str] | None], Arrays]  # a session's
Convert = Callable[[NDArray[Any]], NDArray[Any]]

DTYPES = {"F32": np.float32, "F16": np.float16, "F64": np.float64, "I64": np.int64, "I32": np.int32}


@dataclass(frozen=True)
class Adapter:
    """Runs a graph as the component it is. Floats are float32 on this side of it, whatever they are on that one."""

    inputs: Mapping[str, tuple[str, Convert]]  # of the component -> of the graph, and what makes it
    outputs: Mapping[str, tuple[str, Convert]]  # of the component -> the graph's that it is made of, and how

    def __call__(self, run: Run, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        theirs = {name: convert(feeds[ours]) for ours, (name, convert) in self.inputs.items()}
        wanted = dict.fromkeys(name for name, _ in self.outputs.values())
        given = run(theirs, list(wanted))
        return {
            ours: convert(given[name].astype(np.float32, copy=False)) for ours, (name, convert) in self.outputs.items()
        }


@dataclass(frozen=True)
class Adapted:
    spec: ComponentSpec  # without its graph
    adapter: Adapter


def adapted(
    name: str,
    inputs: Mapping[TensorSpec, tuple[str, Convert]],
    outputs: Mapping[TensorSpec, tuple[str, Convert]],
) -> Adapted:
    spec = ComponentSpec(name, tuple(inputs), tuple(outputs), ())
    return Adapted(spec, Adapter(*({t.name: port for t, port in side.items()} for side in (inputs, outputs))))


def same(array: NDArray[Any]) -> NDArray[Any]:
    return array


def cast(part: str, value: Value) -> Convert:
    """To the dtype that an input takes. A fraction is cut off where it takes whole numbers."""
    if value.dtype not in DTYPES:
        raise BundleError(f"{part}/model.onnx takes {value.name} as {value.dtype}; known: {', '.join(DTYPES)}")
    dtype = DTYPES[value.dtype]
    return lambda array: array.astype(dtype, copy=False)


def only_known(part: str, graph: GraphFile, known: Iterable[str]) -> None:
    """BundleError for an input that nothing here would give."""
    for name in graph.inputs:
        if name not in known:
            raise BundleError(f"{part}/model.onnx takes {name!r}; known: {', '.join(known)}")


def needed(part: str, graph: GraphFile, name: str) -> Value:
    if name not in graph.inputs:
        raise BundleError(f"{part}/model.onnx takes no {name!r}; it takes {', '.join(graph.inputs) or 'nothing'}")
    return graph.inputs[name]


def output(graph: GraphFile, name: str) -> str:
    """The output of that name, else the first."""
    return name if name in graph.outputs else next(iter(graph.outputs), name)


def axis(value: Value | None, index: int) -> int | None:
    """The size of an axis, where the graph fixes it."""
    shape = (value.shape if value else None) or ()
    size = shape[index] if len(shape) > index else None
    return size if isinstance(size, int) else None
