"""The autoencoder: pictures to latents and back, one at a time, so that memory is that of one; a large one in tiles."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffrt.bundle import Bundle
from diffrt.components import tiles
from diffrt.components.graph import Graph
from diffrt.manifest import Tiling
from diffrt.providers import Provider
from diffrt.session import Session

F32 = NDArray[np.float32]


class Encoder:
    def __init__(self, bundle: Bundle, provider: Provider, largest: int) -> None:
        """Pictures of more than `largest` latent pixels are encoded in tiles."""
        self._graph, self._largest = Graph(bundle, "vae_encoder", provider, "mean"), largest
        self._halves = Halves.of(bundle, "vae_encoder", provider)
        self._factor = bundle.manifest.latents["scale_factor"]

    def __call__(self, pictures: F32) -> tuple[F32, F32]:  # [B,3,H,W] in [-1,1] -> [B,C,h,w] twice
        """Mean and standard deviation of the posterior, shifted and scaled as the denoiser takes them."""
        height, width = pictures.shape[2:]
        tiled = self._halves if height * width > self._largest * self._factor**2 else None
        parts = [tiled.encode(one[None]) if tiled else self._encode(one[None]) for one in pictures]
        mean, std = (np.concatenate(each) for each in zip(*parts, strict=True))
        return mean, std

    def _encode(self, picture: F32) -> tuple[F32, F32]:
        out = self._graph.run_all({"sample": picture}, picture.shape[2:])
        return out["mean"], out["std"]

    def close(self) -> None:
        self._graph.close()


class Decoder:
    def __init__(self, bundle: Bundle, provider: Provider, largest: int) -> None:
        """More than `largest` latent pixels are decoded in tiles."""
        self._graph, self._largest = Graph(bundle, "vae_decoder", provider, "sample"), largest
        self._halves = Halves.of(bundle, "vae_decoder", provider)
        self._factor = bundle.manifest.latents["scale_factor"]

    def __call__(self, latents: F32) -> F32:  # [B,C,h,w] -> [B,3,H,W], nominally in [-1,1]
        height, width = latents.shape[2:]
        tiled = self._halves if height * width > self._largest else None
        return np.concatenate([tiled.decode(one[None]) if tiled else self._decode(one[None]) for one in latents])

    def _decode(self, latents: F32) -> F32:
        height, width = latents.shape[2:]
        return self._graph.run({"latent_sample": latents}, (height * self._factor, width * self._factor))

    def close(self) -> None:
        self._graph.close()


class Halves:
    """One half of an autoencoder as two graphs: the part that sees the whole picture, and the part made in tiles.

    Each is open while it runs: memory never holds both.
    """

    def __init__(self, root: Path, component: str, provider: Provider, tiling: Tiling, factor: int) -> None:
        self._root, self._component, self._provider = root, component, provider
        self._tiling, self._factor = tiling, factor

    @classmethod
    def of(cls, bundle: Bundle, component: str, provider: Provider) -> "Halves | None":
        """None where the bundle has no such graphs."""
        tiling, factor = bundle.component(component).tiling, bundle.manifest.latents["scale_factor"]
        return cls(bundle.root, component, provider, tiling, factor) if tiling else None

    def decode(self, latents: F32, core: int | None = None) -> F32:  # [1,C,h,w] -> [1,3,H,W]
        """`core` is the largest side of a tile in latent pixels."""
        features = self._open(self._tiling.whole).run({"latent_sample": latents})["features"]
        return self._in_tiles(features, "features", "sample", 1, self._factor, core)

    def encode(self, picture: F32, core: int | None = None) -> tuple[F32, F32]:  # [1,3,H,W] -> [1,C,h,w] twice
        features = self._in_tiles(picture, "sample", "features", self._factor, 1, core)
        out = self._open(self._tiling.whole).run({"features": features})
        return out["mean"], out["std"]

    def run(self, feeds: Mapping[str, F32], core: int) -> dict[str, F32]:
        """What the graph of the whole gives for the same feeds, in tiles of at most `core` latent pixels."""
        (batch,) = feeds.values()
        if "latent_sample" in feeds:
            return {"sample": np.concatenate([self.decode(one[None], core) for one in batch])}
        rows = [self.encode(one[None], core) for one in batch]
        mean, std = (np.concatenate(column) for column in zip(*rows, strict=True))
        return {"mean": mean, "std": std}

    def _open(self, graph: str) -> Session:
        return Session(self._root / graph, self._provider, self._component, self._tiling.precision, arena=False)

    def _in_tiles(self, x: F32, name: str, output: str, scale_in: int, scale_out: int, core: int | None) -> F32:
        session, tiling = self._open(self._tiling.tiled), self._tiling

        def tiled(part: F32, norms: F32, fixed: F32, core: NDArray[np.int64]) -> tuple[F32, F32]:
            out = session.run({name: part, "norms": norms, "fixed": fixed, "core": core})
            return out[output], out["stats"]

        shape = (tiling.norms, 2, tiling.groups)
        return tiles.run(tiled, x, scale_in, scale_out, tiling.halo, shape, core or tiles.CORE)
