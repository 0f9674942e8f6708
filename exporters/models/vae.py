"""AutoencoderKL of latent diffusion (Rombach et al. 2022; Kingma & Welling 2014), with diffusers' config keys and
tensor names. The latents it takes and gives are the diffusion model's: shifted and scaled.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffrt.model_configs import VAEConfig

from .layers import Downsample2D, PixelAttention, ResnetBlock2D, Upsample2D

EPS = 1e-6  # of every norm in the autoencoder


class MidBlock(nn.Module):
    def __init__(self, dim: int, groups: int):
        super().__init__()
        self.attentions = nn.ModuleList([PixelAttention(dim, groups, heads=1, eps=EPS)])
        self.resnets = nn.ModuleList([ResnetBlock2D(dim, dim, None, groups, EPS) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Stage(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, layers: int, groups: int):
        super().__init__()
        self.resnets = nn.ModuleList(
            [ResnetBlock2D(out_channels if j else in_channels, out_channels, None, groups, EPS) for j in range(layers)]
        )

    def forward(self, x: Tensor) -> Tensor:
        for resnet in self.resnets:
            x = resnet(x)
        return x


class Encoder(nn.Module):
    def __init__(self, c: VAEConfig, outputs: int):
        super().__init__()
        widths = c.block_out_channels
        self.conv_in = nn.Conv2d(c.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        for i, width in enumerate(widths):
            stage = Stage(widths[max(i - 1, 0)], width, c.layers_per_block, c.norm_num_groups)
            if i < len(widths) - 1:
                stage.downsamplers = nn.ModuleList([Downsample2D(width, padding=0)])
            self.down_blocks.append(stage)
        self.mid_block = MidBlock(widths[-1], c.norm_num_groups)
        self.conv_norm_out = nn.GroupNorm(c.norm_num_groups, widths[-1], EPS)
        self.conv_out = nn.Conv2d(widths[-1], outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for i, stage in enumerate(self.down_blocks):
            x = stage(x)
            if i < len(self.down_blocks) - 1:
                x = stage.downsamplers[0](x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    def __init__(self, c: VAEConfig):
        super().__init__()
        widths = c.block_out_channels[::-1]
        self.conv_in = nn.Conv2d(c.latent_channels, widths[0], 3, padding=1)
        self.mid_block = MidBlock(widths[0], c.norm_num_groups)
        self.up_blocks = nn.ModuleList()
        for i, width in enumerate(widths):
            stage = Stage(widths[max(i - 1, 0)], width, c.layers_per_block + 1, c.norm_num_groups)
            if i < len(widths) - 1:
                stage.upsamplers = nn.ModuleList([Upsample2D(width)])
            self.up_blocks.append(stage)
        self.conv_norm_out = nn.GroupNorm(c.norm_num_groups, widths[-1], EPS)
        self.conv_out = nn.Conv2d(widths[-1], c.out_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(z))
        for i, stage in enumerate(self.up_blocks):
            x = stage(x)
            if i < len(self.up_blocks) - 1:
                x = stage.upsamplers[0](x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class AutoencoderKL(nn.Module):
    """Pictures f32[B,3,H,W] in [-1,1] <-> latents f32[B,C,H/f,W/f], f = 2^(stages-1)."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        c = self.config = VAEConfig.read(config)
        self.shift, self.scale = c.shift_factor or 0.0, c.scaling_factor
        self.encoder, self.decoder = Encoder(c, 2 * c.latent_channels), Decoder(c)
        if c.use_quant_conv:
            self.quant_conv = nn.Conv2d(2 * c.latent_channels, 2 * c.latent_channels, 1)
        if c.use_post_quant_conv:
            self.post_quant_conv = nn.Conv2d(c.latent_channels, c.latent_channels, 1)

    def moments(self, sample: Tensor) -> Tensor:
        """Mean and log-variance of the posterior, concatenated and as learned (neither shifted nor scaled)."""
        h = self.encoder(sample)
        return self.quant_conv(h) if self.config.use_quant_conv else h

    def decode_raw(self, z: Tensor) -> Tensor:
        """The picture of latents as learned (neither shifted nor scaled)."""
        return self.decoder(self.post_quant_conv(z) if self.config.use_post_quant_conv else z)

    def encode(self, sample: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the diffusion model's latents."""
        mean, logvar = self.moments(sample).chunk(2, dim=1)
        std = torch.exp(0.5 * logvar.clamp(-30.0, 20.0))
        return (mean - self.shift) * self.scale, std * self.scale

    def decode(self, latent_sample: Tensor) -> Tensor:
        """The picture of the diffusion model's latents."""
        return self.decode_raw(latent_sample / self.scale + self.shift)
