"""The step graph: one row of a table, with the denoiser and its guidance, as one graph. See exporters/step/graph.py."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from diffrt.bundle import Bundle
from diffrt.components.denoiser import Denoiser
from diffrt.components.graph import Graph
from diffrt.guidance import F32, Mixture
from diffrt.manifest import STEP
from diffrt.providers import Provider
from diffrt.session import Places

SLOTS, AFTER = "slots", "slots_after"


class StepGraph:
    def __init__(self, bundle: Bundle, provider: Provider, denoiser: Denoiser) -> None:
        """`denoiser` is not opened: it knows which sizes fit."""
        self._graph = Graph(bundle, STEP, provider, AFTER, every_step=True, held=True)
        self._denoiser = denoiser

    @contextmanager
    def hold(self, slots: F32, mixture: Mixture) -> Iterator[Places]:  # slots [S,B,C,h,w]
        """Places on the device for the state and what the model is told. Before each evaluation put in

        timestep [N], c_in, p, q [], W [S,S+3], clip [], weights [B,N] f32; z [B,C,h,w] f32 where the row is noisy
        """
        count, number = len(slots), np.zeros((), np.float32)
        feeds = {
            SLOTS: slots,
            "z": np.zeros_like(slots[0]),  # not touched by rows without noise, which multiply it by 0
            "pictures": mixture.pictures,
            "weights": mixture.weights,
            "timestep": np.zeros(len(mixture.pictures), np.float32),
            "W": np.zeros((count, count + 3), np.float32),
            **dict.fromkeys(("c_in", "p", "q", "clip"), number),
            **mixture.conditions,
        }
        session = self._graph.session(self._denoiser.size(slots[0], mixture.conditions))
        with session.hold(feeds, SLOTS, AFTER) as places:
            yield places

    def close(self) -> None:
        self._graph.close()
