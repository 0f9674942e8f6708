"""ONNX Runtime."""

import contextlib
import ctypes
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffrt.errors import ProviderError
from diffrt.providers import Provider

DTYPES = {
    "tensor(float)": np.dtype(np.float32), "tensor(int64)": np.dtype(np.int64),
    # only at the boundary of graphs that other programs wrote
    "tensor(float16)": np.dtype(np.float16), "tensor(double)": np.dtype(np.float64),
    "tensor(int32)": np.dtype(np.int32),
}  # fmt: skip
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
            f"pip install 'diffrt[{provider.extra}]'"
        )


class OnnxRuntime:
    def __init__(self, graph: Path, provider: Provider, *, arena: bool, brief: bool) -> None:
        ort = runtime()
        options = ort.SessionOptions()
        options.log_severity_level = SILENT
        options.enable_mem_pattern = False  # sizes change from call to call: patterns only held memory
        options.enable_cpu_mem_arena = arena
        if brief or provider.fast_load:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        if brief:
            options.execution_order = ort.ExecutionOrder.PRIORITY_BASED  # what looks on values runs before they pile up
        if provider.fast_load:  # weights stay mapped files, where a kernel takes them as they are
            options.add_session_config_entry("session.disable_prepacking", "1")
        self._session = ort.InferenceSession(
            str(graph), options, providers=[(provider.runtime_name, dict(provider.options))]
        )
        self._session.disable_fallback()  # to the CPU, silently
        if self._session.get_providers()[0] != provider.runtime_name:
            raise ProviderError(
                f"provider {provider.name!r} did not take {graph.name}; "
                f"ONNX Runtime would use {self._session.get_providers()[0]}"
            )
        _give_back()
        self.inputs = {i.name: (DTYPES.get(i.type), tuple(i.shape)) for i in self._session.get_inputs()}
        self.outputs = [o.name for o in self._session.get_outputs()]
        self._options = ort.RunOptions()
        self._options.log_severity_level = SILENT
        if arena and provider.shrink:  # 0.3 GB less beside the autoencoder
            self._options.add_run_config_entry("memory.enable_memory_arena_shrinkage", provider.shrink)

    def run(self, wanted: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> Sequence[NDArray[Any]]:
        return self._session.run(list(wanted), dict(feeds), self._options)


open_graph = OnnxRuntime


def _give_back() -> None:
    """Return freed memory to the system: loading frees a copy of most weights, which glibc would keep."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)
