"""VQModel, the autoencoder of early latent diffusion whose latents are entries of a codebook (van den Oord et al. 2017,
arXiv:1711.00937; Esser et al. 2021, arXiv:2012.09841), with diffusers' config keys and tensor names. The latents it
takes and gives are the diffusion model's: scaled, and not yet those of the codebook.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diffrt.configs import read_config
from diffrt.model_configs import VAEConfig

from .vae import Decoder, Encoder


@dataclass(frozen=True)
class VQConfig:
    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",)
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    latent_channels: int = 3
    sample_size: int | tuple[int, int] = 32
    num_vq_embeddings: int = 256
    norm_num_groups: int = 32
    vq_embed_dim: int | None = None  # None: as many as latent_channels
    scaling_factor: float = 0.18215
    lookup_from_codebook: bool = False  # of latents that are numbers of entries: these never are
    force_upcast: bool = False

    @property
    def halves(self) -> VAEConfig:
        """What the encoder and the decoder are made by."""
        return VAEConfig(
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            down_block_types=self.down_block_types,
            up_block_types=self.up_block_types,
            block_out_channels=self.block_out_channels,
            layers_per_block=self.layers_per_block,
            latent_channels=self.latent_channels,
            norm_num_groups=self.norm_num_groups,
        )


# Keys of diffusers' VQModel implemented for these values alone.
ONLY: dict[str, tuple] = {"act_fn": ("silu",), "norm_type": ("group",), "mid_block_add_attention": (True,)}


class Quantizer(nn.Module):
    """The entry of the codebook that is nearest to each pixel: [B,C,h,w] -> [B,C,h,w]."""

    def __init__(self, entries: int, channels: int):
        super().__init__()
        self.embedding = nn.Embedding(entries, channels)

    def forward(self, z: Tensor) -> Tensor:
        # Channel by channel, and not as a matrix product: all of it rounds alike in every runtime, so that none takes
        # another entry where two are nearly as far.
        book, z = self.embedding.weight.float(), z.float()

        def squared(i: int) -> Tensor:  # [B,h,w,entries]
            apart = z[:, i].unsqueeze(-1) - book[:, i]
            return apart * apart

        distance = squared(0)
        for i in range(1, self.embedding.embedding_dim):
            distance = distance + squared(i)
        return self.embedding(distance.argmin(-1)).permute(0, 3, 1, 2)


class VQModel(nn.Module):
    """Pictures f32[B,3,H,W] in [-1,1] <-> latents f32[B,C,H/f,W/f], f = 2^(stages-1)."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        c = read_config(VQConfig, config, ONLY)
        channels = c.vq_embed_dim or c.latent_channels
        self.scale = c.scaling_factor
        self.encoder, self.decoder = Encoder(c.halves, c.latent_channels), Decoder(c.halves)
        self.quantize = Quantizer(c.num_vq_embeddings, channels)
        self.quant_conv = nn.Conv2d(c.latent_channels, channels, 1)
        self.post_quant_conv = nn.Conv2d(channels, c.latent_channels, 1)

    def encode(self, sample: Tensor) -> tuple[Tensor, Tensor]:
        """The diffusion model's latents, and their standard deviation, which is none."""
        latents = self.quant_conv(self.encoder(sample)) * self.scale
        return latents, torch.zeros_like(latents)

    def decode(self, latent_sample: Tensor) -> Tensor:
        """The picture of the diffusion model's latents."""
        return self.decoder(self.post_quant_conv(self.quantize(latent_sample / self.scale)))
