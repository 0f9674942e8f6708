"""The denoiser: one evaluation of the network that the sampler's table calls."""

import numpy as np
from numpy.typing import NDArray

from diffrt.bundle import Bundle
from diffrt.components.graph import Graph
from diffrt.guidance import Conditions
from diffrt.providers import Provider


class Denoiser:
    def __init__(self, bundle: Bundle, provider: Provider) -> None:
        manifest = bundle.manifest
        spec = bundle.component(manifest.denoiser)
        sample = next(each for each in spec.inputs if each.name == "sample")
        self.factor = manifest.latents["scale_factor"]
        self.channels = int(sample.shape[1])  # more than the latents' where it is told of a picture beside them
        self.inputs = frozenset(each.name for each in spec.inputs)
        self.takes_sigma = "sigma" in self.inputs
        encoders = {name: sources[0].partition(".")[0] for name, sources in manifest.conditions.items()}
        lengths = {encoder: entry["max_length"] for encoder, entry in manifest.tokenizers.items()}
        self._chunk = {name: lengths[encoder] for name, encoder in encoders.items() if encoder in lengths}
        self._graph = Graph(bundle, manifest.denoiser, provider, spec.outputs[0].name, every_step=True)

    def __call__(
        self, x: NDArray[np.float32], t: float, conditions: Conditions
    ) -> NDArray[np.float32]:  # [B,C,h,w] -> [B,C,h,w]
        """x is already scaled by the scheduler; t is the training time, not necessarily whole. Of a denoiser that takes
        sigma, x is unscaled and t is sigma: see diffrt/levels.py."""
        time = "sigma" if self.takes_sigma else "timestep"
        feeds = {"sample": x, time: np.full(len(x), t, np.float32), **conditions}
        return self._graph.run(feeds, self.size(x, conditions))

    def size(self, x: NDArray[np.float32], conditions: Conditions) -> tuple[int, int] | None:
        """The (height, width) in pixels of graphs that fit: those of a fixed size are for prompts of one chunk."""
        height, width = (side * self.factor for side in x.shape[2:])
        fits = all(conditions[name].ndim == 2 or conditions[name].shape[1] == n for name, n in self._chunk.items())
        return (height, width) if fits else None

    def close(self) -> None:
        self._graph.close()
