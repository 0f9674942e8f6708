"""The one door to ONNX Runtime: a graph opened on one provider, arrays in and arrays out."""

import contextlib
import ctypes
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffrt.errors import BundleError, InvalidArgument, NumericalError, ProviderError
from diffrt.providers import PROVIDERS, Provider

Arrays = dict[str, NDArray[Any]]

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


def available() -> dict[str, bool]:
    """Every provider diffrt knows, and whether the installed onnxruntime has it."""
    here = runtime().get_available_providers()
    return {name: record.runtime_name in here for name, record in PROVIDERS.items()}


def require(provider: Provider) -> None:
    """ProviderError where the installed onnxruntime lacks the provider."""
    here = runtime().get_available_providers()
    if provider.runtime_name not in here:
        raise ProviderError(
            f"provider {provider.name!r} is not installed: this onnxruntime has {', '.join(here)}; "
            f"pip install 'diffrt[{provider.extra}]'"
        )


class Session:
    """A graph ready to run. `component` and `precision` are what errors call it by."""

    def __init__(
        self,
        graph: Path,
        provider: Provider,
        component: str = "",
        precision: str = "fp32",
        *,
        arena: bool = True,
        brief: bool = False,
    ) -> None:
        """Raises ProviderError where the provider is missing or refuses the graph, BundleError for a bad graph.

        `arena` keeps working memory between runs: for a graph that runs at every step. A `brief` session
        is for a few runs: it leaves the layout of weights as it is, loads faster in less memory, and runs slower.
        """
        ort = runtime()
        require(provider)
        self.name, self._precision = component or graph.name, precision
        options = ort.SessionOptions()
        options.log_severity_level = SILENT
        options.enable_mem_pattern = False  # sizes change from call to call: patterns only held memory
        options.enable_cpu_mem_arena = arena
        if brief:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
            options.execution_order = ort.ExecutionOrder.PRIORITY_BASED  # what looks on values runs before they pile up
        try:
            self._session = ort.InferenceSession(
                str(graph), options, providers=[(provider.runtime_name, dict(provider.options))]
            )
        except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
            raise BundleError(f"{self.name}: {graph.name} cannot be loaded: {_line(error)}") from None
        self._session.disable_fallback()  # to the CPU, silently
        if self._session.get_providers()[0] != provider.runtime_name:
            raise ProviderError(
                f"{self.name}: provider {provider.name!r} did not take the graph; "
                f"ONNX Runtime would use {self._session.get_providers()[0]}"
            )
        _give_back()
        self.inputs = {i.name: (DTYPES.get(i.type), tuple(i.shape)) for i in self._session.get_inputs()}
        self.outputs = [o.name for o in self._session.get_outputs()]
        self._options = ort.RunOptions()
        self._options.log_severity_level = SILENT
        if arena and provider.shrink:  # 0.3 GB less beside the autoencoder
            self._options.add_run_config_entry("memory.enable_memory_arena_shrinkage", provider.shrink)

    def run(self, feeds: Mapping[str, NDArray[Any]], wanted: Sequence[str] | None = None) -> Arrays:
        """One evaluation, of all outputs or of those wanted. Raises InvalidArgument for feeds that do not fit,
        NumericalError for NaN or infinity."""
        self._check(feeds)
        names = self.outputs if wanted is None else wanted
        try:
            arrays = self._session.run(names, dict(feeds), self._options)
        except Exception as error:
            raise ProviderError(f"{self.name} failed: {_line(error)}") from None
        outputs: Arrays = dict(zip(names, arrays, strict=True))
        for output, array in outputs.items():
            if not np.isfinite(array.sum(dtype=np.float64)):
                fix = (
                    "its inputs or weights are damaged: try another seed, then diffrt verify"
                    if self._precision == "fp32"
                    else "export again, which measures what overflows, or with --precision fp32"
                )
                raise NumericalError(f"{self.name} ({self._precision}) gave NaN or infinity in {output}: {fix}")
        return outputs

    def _check(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        if set(feeds) != set(self.inputs):
            raise InvalidArgument(f"{self.name} takes {', '.join(self.inputs)}; got {', '.join(feeds) or 'nothing'}")
        axes: dict[str, int] = {}
        for name, (dtype, shape) in self.inputs.items():
            array = feeds[name]
            fits = array.dtype == dtype and array.ndim == len(shape)
            for axis, size in zip(shape, array.shape, strict=False):
                fits = fits and size == (axes.setdefault(axis, size) if isinstance(axis, str) else axis or size)
            if not fits:
                raise InvalidArgument(
                    f"{self.name}: {name} is {array.dtype} {list(array.shape)}; it must be {dtype} {list(shape)}"
                )


def _give_back() -> None:
    """Return freed memory to the system: loading frees a copy of most weights, which glibc would keep."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


def _line(error: Exception) -> str:
    """The first line of ONNX Runtime's message."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
