"""The denoiser: one evaluation of the network that the sampler's table calls."""

import numpy as np
from numpy.typing import NDArray

from diffrt.bundle import Bundle
from diffrt.components.graph import Graph
from diffrt.providers import Provider


class Denoiser:
    def __init__(self, bundle: Bundle, provider: Provider) -> None:
        self.factor = bundle.manifest.latents["scale_factor"]
        sample = next(spec for spec in bundle.component("unet").inputs if spec.name == "sample")
        self.chunk = bundle.manifest.tokenizer["max_length"]
        self.channels = int(sample.shape[1])  # more than the latents' where it is told of a picture beside them
        self._graph = Graph(bundle, "unet", provider, "out_sample", every_step=True)

    def __call__(
        self, x: NDArray[np.float32], t: float, embeds: NDArray[np.float32]
    ) -> NDArray[np.float32]:  # [B,C,h,w] and [B,S,D] -> [B,C,h,w]
        """x is already scaled by the scheduler; t is the training time, not necessarily whole."""
        feeds = {"sample": x, "timestep": np.full(len(x), t, np.float32), "encoder_hidden_states": embeds}
        height, width = (side * self.factor for side in x.shape[2:])
        # graphs of a fixed size are for prompts of one chunk
        return self._graph.run(feeds, (height, width) if embeds.shape[1] == self.chunk else None)

    def close(self) -> None:
        self._graph.close()
