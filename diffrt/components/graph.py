"""A component's graph, opened on first use. What the other files of this folder share."""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from diffrt.bundle import Bundle
from diffrt.manifest import Variant
from diffrt.providers import Provider
from diffrt.session import Arrays, Session


class Graph:
    """Opens the variant that the provider prefers for a picture size, and keeps it until another is asked for."""

    def __init__(self, bundle: Bundle, component: str, provider: Provider) -> None:
        self._bundle, self._component, self._provider = bundle, component, provider
        self._open: tuple[Variant, Session] | None = None

    def run(self, feeds: Mapping[str, NDArray[Any]], size: tuple[int, int] | None = None) -> Arrays:
        """`size` is the picture's (height, width) in pixels, for components that have graphs of a fixed size."""
        variant = self._bundle.variant(self._component, self._provider.attention, size)
        if self._open is None or self._open[0] != variant:
            self.close()  # first, so that memory never holds two
            graph = self._bundle.path(variant.file)
            self._open = variant, Session(graph, self._provider, self._component, variant.precision)
        return self._open[1].run(feeds)

    def close(self) -> None:
        """Free the session; the next run opens it again."""
        self._open = None
