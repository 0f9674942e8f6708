"""A component's graph, opened on first use. What the other files of this folder share."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffrt.bundle import Bundle
from diffrt.errors import BundleError
from diffrt.manifest import Variant
from diffrt.providers import Provider
from diffrt.session import Arrays, Session


class Graph:
    """Opens the variant that the provider prefers for a picture size, and keeps it until another is asked for."""

    def __init__(
        self,
        bundle: Bundle,
        component: str,
        provider: Provider,
        output: str = "",
        *,
        every_step: bool = False,
        held: bool = False,
    ) -> None:
        """`output` is the one that run gives. Raises BundleError where the bundle lacks the component or the output.

        Working memory is kept between runs only for a graph that runs at `every_step`. `held` is as in Session.
        """
        if output not in ("", *(spec.name for spec in bundle.component(component).outputs)):
            raise BundleError(f"{bundle.root}: {component} gives no {output}; export the checkpoint again")
        self._bundle, self._component, self._provider, self._output = bundle, component, provider, output
        self._arena, self._held = every_step, held
        self._adapter = bundle.adapters.get(component)
        self._open: tuple[Variant, Session] | None = None

    def run(self, feeds: Mapping[str, NDArray[Any]], size: tuple[int, int] | None = None) -> NDArray[np.float32]:
        """The one output: see run_all."""
        return self.run_all(feeds, size)[self._output]

    def run_all(self, feeds: Mapping[str, NDArray[Any]], size: tuple[int, int] | None = None) -> Arrays:
        """`size` is the picture's (height, width) in pixels, for components that have graphs of a fixed size."""
        run = self.session(size).run
        return self._adapter(run, feeds) if self._adapter else run(feeds)

    def session(self, size: tuple[int, int] | None = None) -> Session:
        """Of the variant for that size."""
        variant = self._bundle.variant(self._component, self._provider.attention, size)
        if self._open is None or self._open[0] != variant:
            from diffrt import prepared  # it imports what an import of diffrt does without

            self.close()  # first, so that memory never holds two
            graph = self._bundle.path(variant.file)
            ready = prepared.find(self._bundle, variant, self._provider)
            self._open = (
                variant,
                Session(
                    graph,
                    self._provider,
                    self._component,
                    variant.precision,
                    arena=self._arena,
                    prepared=ready,
                    held=self._held,
                ),
            )
        return self._open[1]

    def close(self) -> None:
        """Free the session; the next run opens it again."""
        self._open = None
