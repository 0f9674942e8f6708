"""OpenVINO, on any x86 or Arm processor and on Intel's graphics: it takes a graph whole or refuses it.

Its own library, and not its plugin for ONNX Runtime, which shows itself on Intel's hardware alone.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffrt.errors import ProviderError
from diffrt.onnx_file import read_graph
from diffrt.providers import Provider

NUMPY = {"F32": np.float32, "I64": np.int64, "F16": np.float16, "F64": np.float64, "I32": np.int32}


@cache
def core() -> Any:
    """One for the process. Raises ProviderError that says how to install it."""
    try:
        import openvino
    except ImportError as error:
        raise ProviderError(f"openvino cannot be imported ({error}): pip install 'diffrt[openvino]'") from None
    return openvino.Core()


def require(provider: Provider) -> None:
    here = core().available_devices
    if provider.runtime_name not in here:
        raise ProviderError(f"provider {provider.name!r} needs the device {provider.runtime_name}; there is {here}")


def computes_in_bf16(device: str = "CPU") -> bool:
    """Whether the device has instructions for bfloat16, in which OpenVINO then computes unless it is told not to."""
    return "BF16" in core().get_property(device, "OPTIMIZATION_CAPABILITIES")


class OpenVino:
    """A graph of one picture size is compiled for each batch when it comes, and forgotten for the next: it is ready
    sooner than one for any batch, and its runs take 5 to 8 % less. Others, and one that is prepared, are compiled for
    all sizes at once."""

    def __init__(
        self,
        graph: Path,
        provider: Provider,
        *,
        arena: bool,
        brief: bool,
        prepared: Path | None = None,
        held: bool = False,
    ) -> None:
        self._device = provider.runtime_name
        self._options = dict(provider.options) | ({"CACHE_DIR": str(prepared)} if prepared else {})
        file = read_graph(graph)  # OpenVINO gives a value the names of all that it is the same as
        self.inputs = {
            name: (np.dtype(NUMPY[value.dtype]), tuple(value.shape or ())) for name, value in file.inputs.items()
        }
        self.outputs = list(file.outputs)
        free = {axis for _, shape in self.inputs.values() for axis in shape if not isinstance(axis, int)}
        self._any = None in free or len(free) > 1 or bool(prepared)  # None: an axis without a name may be any
        self._sizes: dict[str, tuple[int, ...]] = {}  # that it is compiled for, if not for any
        with _plainly():
            self._model: Any = None if self._any else core().read_model(graph)
            self._request: Any = self._compiled(str(graph)) if self._any else None

    def run(self, wanted: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> Sequence[NDArray[Any]]:
        sizes = {name: array.shape for name, array in feeds.items()}
        with _plainly():
            if not self._any and sizes != self._sizes:
                self._request, self._sizes = None, {}  # the weights of one are enough
                self._model.reshape(sizes)
                self._request, self._sizes = self._compiled(self._model), sizes
            self._request.infer(dict(feeds), share_inputs=True)
        return [self._request.get_tensor(name).data.copy() for name in wanted]  # the next run writes there

    def _compiled(self, model: Any) -> Any:
        return core().compile_model(model, self._device, self._options).create_infer_request()


open_graph = OpenVino


def prepare(graph: Path, provider: Provider, folder: Path) -> None:
    OpenVino(graph, provider, arena=False, brief=False, prepared=folder)


def version() -> str:
    import openvino

    return openvino.__version__


@contextlib.contextmanager
def _plainly() -> Iterator[None]:
    """Of OpenVINO's errors the last line: those before say where in its source they are from."""
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(str(error).strip().rpartition("\n")[2]) from None
