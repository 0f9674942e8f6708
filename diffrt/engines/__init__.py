"""What runs graphs: one file for each library, the only one that imports it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from diffrt.providers import Provider

Shape = tuple[int | str | None, ...]  # a name, or None, of an axis of any size


class Engine(Protocol):
    """A graph ready to run."""

    inputs: Mapping[str, tuple[np.dtype[Any] | None, Shape]]
    outputs: Sequence[str]

    def run(self, wanted: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> Sequence[NDArray[Any]]:
        """The wanted outputs. Raises what the library raises."""


class Held(Protocol):
    """One run's state, which every evaluation replaces, and all else that a graph reads, in one place from run to run.
    Arrays go in and come out as copies."""

    def put(self, name: str, array: NDArray[Any]) -> None:
        """What an input is from now on, of the shape and dtype that it has."""

    def run(self) -> None:
        """One evaluation. Raises what the library raises."""

    def state(self) -> NDArray[Any]: ...


@runtime_checkable
class Holder(Protocol):
    """A graph ready to run, of a library that can hold a state."""

    def hold(self, feeds: Mapping[str, NDArray[Any]], state: str, after: str) -> Held:
        """`state` is the input that the output `after`, of its shape, replaces."""


class Library(Protocol):
    """What each of the files has."""

    def require(self, provider: Provider) -> None:
        """ProviderError where the provider is not installed."""

    def open_graph(
        self, graph: Path, provider: Provider, *, arena: bool, brief: bool, prepared: Path | None, held: bool
    ) -> Engine:
        """As Session says. Raises what the library raises for a graph that it does not take."""

    def prepare(self, graph: Path, provider: Provider, folder: Path) -> None:
        """Write into the folder what a graph opens from sooner."""

    def version(self) -> str:
        """The library's."""


def library(provider: Provider) -> Library:
    """The file of a provider's library. Importing it does not import the library."""
    from diffrt.engines import onnx_runtime, open_vino

    files: dict[str, ModuleType] = {"onnxruntime": onnx_runtime, "openvino": open_vino}
    return files[provider.library]
