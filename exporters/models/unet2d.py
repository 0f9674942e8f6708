"""UNet2DModel, the network of unconditional models (Ho et al. 2020, arXiv:2006.11239, appendix B), with diffusers'
config keys and tensor names.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffrt.configs import read_config
from diffrt.errors import CheckpointError

from .layers import Downsample2D, PixelAttention, ResnetBlock2D, TimestepEmbedding, Upsample2D, sinusoidal

DOWN = {"DownBlock2D": False, "AttnDownBlock2D": True}  # block type -> has attention
UP = {"UpBlock2D": False, "AttnUpBlock2D": True}

# Keys of diffusers' UNet2DModel implemented for these values alone.
ONLY: dict[str, tuple] = {
    "center_input_sample": (False,), "time_embedding_type": ("positional",), "time_embedding_dim": (None,),
    "mid_block_type": ("UNetMidBlock2D", None), "mid_block_scale_factor": (1,), "downsample_type": ("conv",),
    "upsample_type": ("conv",), "dropout": (0,), "act_fn": ("silu",), "attn_norm_num_groups": (None,),
    "resnet_time_scale_shift": ("default",), "class_embed_type": (None,), "num_class_embeds": (None,),
    "num_train_timesteps": (None,),
}  # fmt: skip


@dataclass(frozen=True)
class UNet2DConfig:
    sample_size: int | tuple[int, int] | None = None
    in_channels: int = 3
    out_channels: int = 3
    freq_shift: float = 0
    flip_sin_to_cos: bool = True
    down_block_types: tuple[str, ...] = ("DownBlock2D", *("AttnDownBlock2D",) * 3)
    up_block_types: tuple[str, ...] = (*("AttnUpBlock2D",) * 3, "UpBlock2D")
    block_out_channels: tuple[int, ...] = (224, 448, 672, 896)
    layers_per_block: int = 2
    downsample_padding: Literal[0, 1] = 1
    attention_head_dim: int | None = 8
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    add_attention: bool = True

    def __post_init__(self) -> None:
        for key, known in (("down_block_types", DOWN), ("up_block_types", UP)):
            kinds = getattr(self, key)
            if len(kinds) != len(self.block_out_channels) or any(kind not in known for kind in kinds):
                allowed = f"{len(self.block_out_channels)} of {', '.join(known)}"
                raise CheckpointError(f"config key {key!r} is {list(kinds)}; allowed: {allowed}")
        for width in self.block_out_channels:
            if width % self.norm_num_groups or width % (self.attention_head_dim or width):
                raise CheckpointError(
                    f"block_out_channels = {list(self.block_out_channels)} are not multiples of norm_num_groups = "
                    f"{self.norm_num_groups} and attention_head_dim = {self.attention_head_dim}"
                )

    def attention(self, width: int) -> PixelAttention:
        heads = width // self.attention_head_dim if self.attention_head_dim else 1
        return PixelAttention(width, self.norm_num_groups, heads, self.norm_eps)


class Stage(nn.Module):
    """Residual blocks, each followed by attention over the pixels where the stage has it."""

    def __init__(self, c: UNet2DConfig, widths: list[tuple[int, int]], attention: bool, time_dim: int):
        super().__init__()
        self.resnets = nn.ModuleList([ResnetBlock2D(i, o, time_dim, c.norm_num_groups, c.norm_eps) for i, o in widths])
        if attention:
            self.attentions = nn.ModuleList([c.attention(o) for _, o in widths])
        self.has_attention = attention

    def layer(self, j: int, x: Tensor, time: Tensor) -> Tensor:
        x = self.resnets[j](x, time)
        return self.attentions[j](x) if self.has_attention else x


class MidBlock(nn.Module):
    def __init__(self, c: UNet2DConfig, width: int, time_dim: int):
        super().__init__()
        blocks = [ResnetBlock2D(width, width, time_dim, c.norm_num_groups, c.norm_eps) for _ in range(2)]
        self.resnets = nn.ModuleList(blocks)
        self.attentions = nn.ModuleList([c.attention(width)] if c.add_attention else [])

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        x = self.resnets[0](x, time)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x, time)


class UNet2DModel(nn.Module):
    """Predicts noise (or v, or the picture) from noisy pictures or latents alone.

    forward(sample f32[B,C,h,w], timestep f32[B]) -> f32[B,C',h,w]. Any h, w >= 1.
    Raises CheckpointError at construction for config values it does not implement.
    """

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        c = self.config = read_config(UNet2DConfig, config, ONLY)
        widths, last = c.block_out_channels, len(c.block_out_channels) - 1
        time_dim = 4 * widths[0]
        self.conv_in = nn.Conv2d(c.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(widths[0], time_dim)
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        skips, channels = [widths[0]], widths[0]  # widths of the skip connections, in the order they are made
        for i, width in enumerate(widths):
            pairs = [(channels if j == 0 else width, width) for j in range(c.layers_per_block)]
            stage = Stage(c, pairs, DOWN[c.down_block_types[i]], time_dim)
            skips += [width] * c.layers_per_block
            if i < last:
                stage.downsamplers = nn.ModuleList([Downsample2D(width, c.downsample_padding)])
                skips.append(width)
            self.down_blocks.append(stage)
            channels = width
        self.mid_block = None if config.get("mid_block_type", "") is None else MidBlock(c, channels, time_dim)
        for i, width in enumerate(reversed(widths)):
            pairs = []
            for _ in range(c.layers_per_block + 1):
                pairs.append((channels + skips.pop(), width))
                channels = width
            stage = Stage(c, pairs, UP[c.up_block_types[i]], time_dim)
            if i < last:
                stage.upsamplers = nn.ModuleList([Upsample2D(width)])
            self.up_blocks.append(stage)
        self.conv_norm_out = nn.GroupNorm(c.norm_num_groups, widths[0], c.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], c.out_channels, 3, padding=1)

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        c = self.config
        wave = sinusoidal(timestep, c.block_out_channels[0], c.flip_sin_to_cos, c.freq_shift)
        time = self.time_embedding(wave.to(sample.dtype))
        x = self.conv_in(sample)
        skips = [x]
        for i, stage in enumerate(self.down_blocks):
            for j in range(len(stage.resnets)):
                x = stage.layer(j, x, time)
                skips.append(x)
            if i < len(self.down_blocks) - 1:
                x = stage.downsamplers[0](x)
                skips.append(x)
        if self.mid_block is not None:
            x = self.mid_block(x, time)
        for i, stage in enumerate(self.up_blocks):
            for j in range(len(stage.resnets)):
                x = stage.layer(j, torch.cat([x, skips.pop()], dim=1), time)
            if i < len(self.up_blocks) - 1:
                x = stage.upsamplers[0](x, size=skips[-1].shape[-2:])
        return self.conv_out(F.silu(self.conv_norm_out(x)))
