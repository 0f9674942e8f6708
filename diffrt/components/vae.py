"""The autoencoder: pictures to latents and back, one at a time, so that memory is that of one."""

import numpy as np
from numpy.typing import NDArray

from diffrt.bundle import Bundle
from diffrt.components.graph import Graph
from diffrt.providers import Provider

F32 = NDArray[np.float32]


class Encoder:
    def __init__(self, bundle: Bundle, provider: Provider) -> None:
        self._graph = Graph(bundle, "vae_encoder", provider, "mean")

    def __call__(self, pictures: F32) -> tuple[F32, F32]:  # [B,3,H,W] in [-1,1] -> [B,C,h,w] twice
        """Mean and standard deviation of the posterior, shifted and scaled as the denoiser takes them."""
        parts = [self._graph.run_all({"sample": one[None]}, one.shape[1:]) for one in pictures]
        return np.concatenate([part["mean"] for part in parts]), np.concatenate([part["std"] for part in parts])

    def close(self) -> None:
        self._graph.close()


class Decoder:
    def __init__(self, bundle: Bundle, provider: Provider) -> None:
        self._factor = bundle.manifest.latents["scale_factor"]
        self._graph = Graph(bundle, "vae_decoder", provider, "sample")

    def __call__(self, latents: F32) -> F32:  # [B,C,h,w] -> [B,3,H,W], nominally in [-1,1]
        height, width = latents.shape[2:]
        size = (height * self._factor, width * self._factor)
        return np.concatenate([self._graph.run({"latent_sample": one[None]}, size) for one in latents])

    def close(self) -> None:
        self._graph.close()
