"""The autoencoder: pictures to latents and back. One picture at a time, so that memory is that of one."""

import numpy as np
from numpy.typing import NDArray

from diffrt.bundle import Bundle
from diffrt.components.graph import Graph
from diffrt.noise import Stream, randn
from diffrt.providers import Provider

F32 = NDArray[np.float32]


class Decoder:
    def __init__(self, bundle: Bundle, provider: Provider) -> None:
        self._factor = bundle.manifest.latents["scale_factor"]
        self._graph = Graph(bundle, "vae_decoder", provider)

    def __call__(self, latents: F32) -> F32:  # [B,C,h,w] -> [B,3,H,W], nominally in [-1,1]
        height, width = latents.shape[2:]
        size = (height * self._factor, width * self._factor)
        return np.concatenate([self._graph.run({"latent_sample": one[None]}, size)["sample"] for one in latents])

    def close(self) -> None:
        self._graph.close()


class Encoder:
    def __init__(self, bundle: Bundle, provider: Provider) -> None:
        self._graph = Graph(bundle, "vae_encoder", provider)

    def __call__(self, pictures: F32, streams: list[Stream]) -> F32:  # [B,3,H,W] in [-1,1] -> [B,C,h,w]
        """A draw from the posterior: mean + std * unit noise, one stream per picture."""
        size = (pictures.shape[2], pictures.shape[3])
        outputs = [self._graph.run({"sample": one[None]}, size) for one in pictures]
        mean, std = (np.concatenate([out[key] for out in outputs]) for key in ("mean", "std"))
        return mean + std * randn(streams, mean.shape[1:])

    def close(self) -> None:
        self._graph.close()
