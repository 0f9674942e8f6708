"""The models that are measured, and where their checkpoint, bundles and plain graphs lie. Made on first use, kept in
the work folder."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffrt.configs import read_json
from diffrt.pipeline import BUNDLES
from diffrt.safetensors_header import read_header

Arrays = dict[str, NDArray[Any]]
Call = Callable[[Arrays], Arrays]

PROMPT, NEGATIVE, SEED = "a photograph of a red fox in the snow", "", 7
PARTS = {"text": ("text_encoder",), "denoiser": ("unet",), "vae": ("vae",), "picture": ("text_encoder", "unet", "vae")}
TIMESTEP = 500.0


@dataclass(frozen=True)
class Model:
    name: str
    precisions: tuple[str, ...]  # that a bundle of it can have; the first is the one of the bundle with the weights
    shipped: bool = False  # inside the package, in one bundle

    def checkpoint(self, work: Path) -> Path:
        """A folder that diffusers loads. A bundle is one."""
        return BUNDLES[self.name] if self.shipped else work / self.name

    def bundle(self, work: Path, precision: str) -> Path:
        return BUNDLES[self.name] if self.shipped else work / f"{self.name}-{precision}"

    def plain(self, work: Path, part: str, precision: str) -> Path:
        """torch.onnx.export of diffusers' own module."""
        return work / (f"{self.name}-plain" + "-fp16" * (precision == "fp16")) / part / "model.onnx"


MODELS = {
    "emoji": Model("emoji", ("fp16",), shipped=True),
    "sd15": Model("sd15", ("fp32", "fp16", "int8")),
    "sdxl": Model("sdxl", ("fp32", "int8")),
    "flux": Model("flux", ("fp32",)),  # exported alone
}


@dataclass(frozen=True)
class Job:
    """What a worker is to load and to run: one stage of a case."""

    model: str
    stage: str
    height: int
    width: int
    batch: int
    steps: int
    guidance: float
    work: str

    def record(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def of(self) -> Model:
        return MODELS[self.model]

    @property
    def folder(self) -> Path:
        return Path(self.work)

    @property
    def checkpoint(self) -> Path:
        return self.of.checkpoint(self.folder)

    def config(self, part: str) -> dict[str, Any]:
        return read_json(self.checkpoint / part / "config.json")

    def inputs(self) -> Arrays:
        """The same numbers in every process. Rows of a guided evaluation: first all unguided ones."""
        rng = np.random.default_rng(SEED)
        unet, vae = self.config("unet"), self.config("vae")
        factor = 2 ** (len(vae["block_out_channels"]) - 1)
        latents = (self.batch, vae["latent_channels"], self.height // factor, self.width // factor)
        text = self.config("text_encoder")
        if self.stage == "text":
            ids = rng.integers(0, text["vocab_size"] - 2, (2 * self.batch, text["max_position_embeddings"]))
            return {"input_ids": ids}
        if self.stage != "denoiser":
            return {"latents": rng.standard_normal(latents, np.float32)}
        rows = 2 * self.batch
        arrays: Arrays = {
            "sample": rng.standard_normal((rows, *latents[1:]), np.float32),
            "timestep": np.full(rows, TIMESTEP, np.float32),
        }
        words = (rows, text["max_position_embeddings"], unet["cross_attention_dim"])
        arrays["encoder_hidden_states"] = rng.standard_normal(words, np.float32)
        if unet.get("addition_embed_type") == "text_time":
            width = unet["projection_class_embeddings_input_dim"] - 6 * unet["addition_time_embed_dim"]
            arrays["text_embeds"] = rng.standard_normal((rows, width), np.float32)
            arrays["time_ids"] = np.tile(
                np.array([self.height, self.width, 0, 0, self.height, self.width], np.float32), (rows, 1)
            )
        return arrays

    def parameters(self) -> int:
        """How many numbers one run reads: of the autoencoder, its decoder's."""
        return sum(parameters(self.checkpoint, part) for part in PARTS[self.stage])


def parameters(checkpoint: Path, part: str) -> int:
    headers = [read_header(file) for file in sorted((checkpoint / part).glob("*.safetensors"))[:1]]
    tensors = {name: entry for header in headers for name, entry in header.items()}
    wanted = ("decoder.", "post_quant_conv.") if part == "vae" else ("",)
    return sum(int(np.prod(entry.shape)) for name, entry in tensors.items() if name.startswith(wanted))
