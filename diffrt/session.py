"""The one door to what runs graphs: a graph opened on one provider, arrays in and arrays out."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffrt.engines import Held, Holder, library, open_vino
from diffrt.errors import BundleError, InvalidArgument, NumericalError, ProviderError
from diffrt.providers import PROVIDERS, Provider
from diffrt.providers import provider as provider_of

Arrays = dict[str, NDArray[Any]]


def require(provider: Provider) -> None:
    """ProviderError, which says what to install, where the provider is missing."""
    library(provider).require(provider)


def chosen(name: str) -> Provider:
    """The provider of a name; of "auto" the fastest that is here. Raises ProviderError."""
    if name != "auto":
        return provider_of(name)
    half = PROVIDERS["openvino"]
    return half if _is_here(half) and open_vino.computes_in_bf16() else PROVIDERS["cpu"]


def available() -> dict[str, bool]:
    """Every provider diffrt knows, and whether it is installed."""
    return {name: _is_here(record) for name, record in PROVIDERS.items()}


def _is_here(provider: Provider) -> bool:
    try:
        require(provider)
    except ProviderError:
        return False
    return True


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
        prepared: Path | None = None,
        held: bool = False,
    ) -> None:
        """Raises ProviderError where the provider is missing or refuses the graph, BundleError for a bad graph.

        `arena` keeps working memory between runs: for a graph that runs at every step. A `brief` session
        is for a few runs: it leaves the layout of weights as it is, loads faster in less memory, and runs slower.
        `prepared` is the folder where the graph is kept as the provider runs it: see diffrt.prepared. A `held` session
        is for `hold` alone.
        """
        require(provider)
        self.name, self._precision = component or graph.name, precision
        try:
            self._engine = library(provider).open_graph(
                graph, provider, arena=arena, brief=brief, prepared=prepared, held=held
            )
        except ProviderError as error:
            raise ProviderError(f"{self.name}: {error}") from None
        except Exception as error:  # the libraries' exceptions have no common base of their own
            raise BundleError(f"{self.name}: {graph.name} cannot be loaded: {_line(error)}") from None
        self.inputs, self.outputs = self._engine.inputs, self._engine.outputs
        self._free: dict[tuple[Any, ...], list[Held]] = {}

    def run(self, feeds: Mapping[str, NDArray[Any]], wanted: Sequence[str] | None = None) -> Arrays:
        """One evaluation, of all outputs or of those wanted. Raises InvalidArgument for feeds that do not fit,
        NumericalError for NaN or infinity."""
        self._check(feeds)
        names = self.outputs if wanted is None else wanted
        try:
            arrays = self._engine.run(names, feeds)
        except Exception as error:
            raise ProviderError(f"{self.name} failed: {_line(error)}") from None
        outputs: Arrays = dict(zip(names, arrays, strict=True))
        for output, array in outputs.items():
            self._finite(output, array)
        return outputs

    @contextmanager
    def hold(self, feeds: Mapping[str, NDArray[Any]], state: str, after: str) -> Iterator["Places"]:
        """Places on the provider's device for all inputs, filled with the feeds, until the end of a run. `state` is the
        input that the output `after` replaces in each evaluation.

        No two runs share them while both are held. Those that are free again serve the next run of the same shapes,
        which then finds what CUDA has captured of it. Raises InvalidArgument for feeds that do not fit.
        """
        self._check(feeds)
        assert isinstance(self._engine, Holder), "only providers with a device hold a state"
        free = self._free.setdefault(tuple((name, array.shape) for name, array in sorted(feeds.items())), [])
        if free:
            held = free.pop()
            for name, array in feeds.items():
                held.put(name, array)
        else:
            held = self._engine.hold(feeds, state, after)
        try:
            yield Places(self, held, feeds, after)
        finally:
            free.append(held)

    def _finite(self, output: str, array: NDArray[Any]) -> None:
        if not np.isfinite(array.sum(dtype=np.float64)):
            fix = (
                "its inputs or weights are damaged: try another seed, then diffrt verify"
                if self._precision == "fp32"
                else "export again, which measures what overflows, or with --precision fp32"
            )
            raise NumericalError(f"{self.name} ({self._precision}) gave NaN or infinity in {output}: {fix}")

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


class Places:
    """The inputs and the state of one run: see Session.hold."""

    def __init__(self, session: Session, held: Held, feeds: Mapping[str, NDArray[Any]], after: str) -> None:
        self._session, self._held, self._after = session, held, after
        self._shapes = {name: (array.dtype, array.shape) for name, array in feeds.items()}

    def put(self, **feeds: NDArray[Any]) -> None:
        """What these inputs are from now on."""
        for name, array in feeds.items():
            assert (array.dtype, array.shape) == self._shapes[name], name
            self._held.put(name, array)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name][1]

    def run(self) -> None:
        """One evaluation, of which the state is left."""
        try:
            self._held.run()
        except Exception as error:
            raise ProviderError(f"{self._session.name} failed: {_line(error)}") from None

    def state(self) -> NDArray[Any]:
        """A copy. Raises NumericalError for NaN or infinity."""
        array = self._held.state()
        self._session._finite(self._after, array)
        return array


def _line(error: Exception) -> str:
    """The first line of a library's message."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
