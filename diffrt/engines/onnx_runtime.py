"""ONNX Runtime."""

import contextlib
import ctypes
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffrt.errors import ProviderError
from diffrt.onnx_file import read_initializers
from diffrt.providers import Provider

DTYPES = {
    "tensor(float)": np.dtype(np.float32), "tensor(int64)": np.dtype(np.int64),
    # only at the boundary of graphs that other programs wrote
    "tensor(float16)": np.dtype(np.float16), "tensor(double)": np.dtype(np.float64),
    "tensor(int32)": np.dtype(np.int32),
}  # fmt: skip
OPTIMISED, WEIGHTS = "graph.onnx", "weights.bin"  # of what is prepared
SILENT = 4  # fatal messages only: everything else arrives as an exception


def runtime() -> ModuleType:
    """onnxruntime. Raises ProviderError that says how to install it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ProviderError(
            f"onnxruntime cannot be imported ({error}): pip install 'diffrt[cpu]', or 'diffrt[cuda]' on NVIDIA"
        ) from None
    return onnxruntime


def require(provider: Provider) -> None:
    here = runtime().get_available_providers()
    if provider.runtime_name not in here:
        raise ProviderError(
            f"provider {provider.name!r} is not installed: this onnxruntime has {', '.join(here)}; "
            f"pip uninstall onnxruntime, then pip install 'diffrt[{provider.extra}]'"
        )


class OnnxRuntime:
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
        ort = runtime()
        if provider.preload:
            with contextlib.redirect_stdout(None):  # what it misses, it prints; what then fails, raises
                ort.preload_dlls()
            ort.set_default_logger_severity(SILENT)  # cuDNN's first choice for a convolution often is none, which works
        options = _options(ort)
        options.enable_mem_pattern = False  # sizes change from call to call: patterns only held memory
        options.enable_cpu_mem_arena = arena
        fast = provider.fast_load and not prepared  # what is prepared opens as soon, and runs faster
        if brief or fast:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        if brief:
            options.execution_order = ort.ExecutionOrder.PRIORITY_BASED  # what looks on values runs before they pile up
        if fast:  # weights stay mapped files, where a kernel takes them as they are
            options.add_session_config_entry("session.disable_prepacking", "1")
        if prepared:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # it has been optimised
        path = str(prepared / OPTIMISED if prepared else graph)
        # bf16 weights would all be made wide at once, and kept
        left_out = ["ConstantFolding"] if fast and _holds_bf16(graph) else None

        def opened(**more: str) -> Any:
            records = [(provider.runtime_name, {**provider.options, **more})]
            return ort.InferenceSession(path, options, providers=records, disabled_optimizers=left_out)

        try:
            self._session = opened(**provider.held if held else {})
        except Exception as error:
            if not held or "graph capture" not in str(error):
                raise
            self._session = opened()  # some nodes stay on the CPU: it runs as it is
        self._session.disable_fallback()  # to the CPU, silently
        if self._session.get_providers()[0] != provider.runtime_name:
            raise ProviderError(
                f"provider {provider.name!r} did not take {graph.name}; "
                f"ONNX Runtime would use {self._session.get_providers()[0]}"
            )
        _give_back()
        self.inputs = {i.name: (DTYPES.get(i.type), tuple(i.shape)) for i in self._session.get_inputs()}
        self.outputs = [o.name for o in self._session.get_outputs()]
        self._options = _run_options(ort)
        self._device = provider.device
        self._graphs = count(1)  # the numbers of what CUDA has captured, one for each set of places
        if arena and provider.shrink:  # 0.3 GB less beside the autoencoder
            self._options.add_run_config_entry("memory.enable_memory_arena_shrinkage", provider.shrink)

    def run(self, wanted: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> Sequence[NDArray[Any]]:
        return self._session.run(list(wanted), dict(feeds), self._options)

    def hold(self, feeds: Mapping[str, NDArray[Any]], state: str, after: str) -> "Held":
        return Held(self._session, self._device, self._graphs, feeds, state, after)


class Held:
    """The state has two places, which evaluations read and write by turns: none writes what it reads, and nothing of
    the caller's is ever bound. As a captured CUDA graph has its addresses in it, each turn is captured for itself."""

    def __init__(
        self,
        session: Any,
        device: str,
        graphs: Iterator[int],
        feeds: Mapping[str, NDArray[Any]],
        state: str,
        after: str,
    ) -> None:
        ort = runtime()
        self._session, self._state, self._turn = session, state, 0

        def place(like: NDArray[Any]) -> Any:
            return ort.OrtValue.ortvalue_from_shape_and_type(list(like.shape), like.dtype.type, device, 0)

        self._places = {name: place(array) for name, array in feeds.items() if name != state}
        self._states = place(feeds[state]), place(feeds[state])
        self._turns = []
        for before, then in (self._states, self._states[::-1]):
            binding, options = session.io_binding(), _run_options(ort)
            for name, value in {**self._places, state: before}.items():
                binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(after, then)
            options.add_run_config_entry("gpu_graph_id", str(next(graphs)))
            self._turns.append((binding, options))
        for name, array in feeds.items():
            self.put(name, array)

    def put(self, name: str, array: NDArray[Any]) -> None:
        place = self._states[self._turn] if name == self._state else self._places[name]
        place.update_inplace(array)

    def run(self) -> None:
        self._session.run_with_iobinding(*self._turns[self._turn])
        self._turn = 1 - self._turn

    def state(self) -> NDArray[Any]:
        return self._states[self._turn].numpy().copy()  # on the CPU it is the place itself


open_graph = OnnxRuntime


def prepare(graph: Path, provider: Provider, folder: Path) -> None:
    ort = runtime()
    options = _options(ort)
    options.optimized_model_filepath = str(folder / OPTIMISED)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", WEIGHTS)
    options.add_session_config_entry("session.save_external_prepacked_constant_initializers", "1")
    ort.InferenceSession(str(graph), options, providers=[(provider.runtime_name, dict(provider.options))])


def version() -> str:
    return runtime().__version__


def _holds_bf16(graph: Path) -> bool:
    return any(tensor.dtype == "BF16" for tensor in read_initializers(graph))


def _options(ort: ModuleType) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = SILENT
    return options


def _run_options(ort: ModuleType) -> Any:
    options = ort.RunOptions()
    options.log_severity_level = SILENT
    return options


def _give_back() -> None:
    """Return freed memory to the system: loading frees a copy of most weights, which glibc would keep."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)
