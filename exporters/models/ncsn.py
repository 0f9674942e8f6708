"""NCSN++, the network of score SDEs (Song et al. 2020, arXiv:2011.13456, appendix H): a UNet2DModel of skip blocks,
with diffusers' config keys and tensor names.

Beside its features a picture goes down and another one comes up, halved and doubled by a filter and not by a
convolution (Karras et al. 2020, arXiv:1912.04958, section 4.1): each stage is shown the one and adds to the other.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffrt.configs import read_config
from diffrt.errors import CheckpointError

from .layers import PixelAttention, ResnetBlock2D, TimestepEmbedding

DOWN = {"SkipDownBlock2D": False, "AttnSkipDownBlock2D": True}  # block type -> has attention
UP = {"SkipUpBlock2D": False, "AttnSkipUpBlock2D": True}
COLOURS = 3
SCALE = math.sqrt(2)  # by which sums of two are divided
LEAST = 1e-5  # a noise level; 0, at which checks of a graph run it too, has no logarithm

# Keys of diffusers' UNet2DModel implemented for these values alone.
ONLY: dict[str, tuple] = {
    "in_channels": (COLOURS,), "out_channels": (COLOURS,), "time_embedding_type": ("fourier",),
    "time_embedding_dim": (None,), "mid_block_type": ("UNetMidBlock2D",), "dropout": (0,), "act_fn": ("silu",),
    "attn_norm_num_groups": (None,), "resnet_time_scale_shift": ("default",), "class_embed_type": (None,),
    "num_class_embeds": (None,), "num_train_timesteps": (None,), "downsample_type": ("conv",),
    "upsample_type": ("conv",),
}  # fmt: skip


@dataclass(frozen=True)
class NCSNConfig:
    sample_size: int | tuple[int, int] | None = None
    center_input_sample: bool = False
    down_block_types: tuple[str, ...] = ()
    up_block_types: tuple[str, ...] = ()
    block_out_channels: tuple[int, ...] = (224, 448, 672, 896)
    layers_per_block: int = 2
    mid_block_scale_factor: float = 1
    attention_head_dim: int | None = 8
    norm_num_groups: int | None = 32  # of the middle and the last norm; None: as many as the stages have
    norm_eps: float = 1e-5
    add_attention: bool = True
    freq_shift: float = 0  # this one and the next two are of other kinds of blocks and embeddings
    flip_sin_to_cos: bool = True
    downsample_padding: Literal[0, 1] = 1

    def __post_init__(self) -> None:
        for key, known in (("down_block_types", DOWN), ("up_block_types", UP)):
            kinds = getattr(self, key)
            if len(kinds) != len(self.block_out_channels) or any(kind not in known for kind in kinds):
                allowed = f"{len(self.block_out_channels)} of {', '.join(known)}"
                raise CheckpointError(f"config key {key!r} is {list(kinds)}; allowed: {allowed}")

    def groups(self, width: int) -> int:
        return self.norm_num_groups or groups(width)

    def attention(self, width: int, groups: int, scale: float) -> PixelAttention:
        return PixelAttention(width, groups, width // (self.attention_head_dim or width), self.norm_eps, scale)

    def block(self, inner: int, width: int, norm: int, resized: bool = False) -> ResnetBlock2D:
        """``norm``: groups of its first norm."""
        time, shortcut = 4 * self.block_out_channels[0], resized or None
        return ResnetBlock2D(inner, width, time, norm, self.norm_eps, groups(width), SCALE, shortcut)


def groups(width: int) -> int:
    return min(width // 4, 32)


def taps(x: Tensor, total: float) -> Tensor:
    """1, 3, 3, 1 each way, with that sum, for each channel: [C,1,4,4]."""
    place = torch.arange(4, dtype=torch.float32)
    line = (1 + place * (3 - place)) / 8
    square = line.unsqueeze(1) * line * total
    return square.to(x.dtype).expand(x.shape[1], 1, 4, 4)


def halved(x: Tensor) -> Tensor:
    """[B,C,h,w] -> [B,C,h/2,w/2], rounded up."""
    return F.conv2d(F.pad(x, (1, 2, 1, 2)), taps(x, 1), stride=2, groups=x.shape[1])


def doubled(x: Tensor, size: tuple[int, int]) -> Tensor:
    """[B,C,h,w] -> [B,C,*size], at most twice as high and wide."""
    height, width = size
    full = F.conv_transpose2d(x, taps(x, 4), stride=2, groups=x.shape[1])
    return full[:, :, 1 : 1 + height, 1 : 1 + width]


class Fourier(nn.Module):
    """Of the logarithm of the noise level: f32[B] -> f32[B,2*channels]."""

    def __init__(self, channels: int):
        super().__init__()
        if torch.get_default_dtype() != torch.float32:  # angles of hundreds, of which fp16 keeps three digits
            raise CheckpointError("fp16 cannot hold the frequencies of noise levels: export with --precision fp32")
        self.weight = nn.Parameter(torch.zeros(channels))

    def forward(self, sigma: Tensor) -> Tensor:
        angle = torch.log(sigma).unsqueeze(1) * self.weight.float() * 2 * math.pi
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


class DownStage(nn.Module):
    """Residual blocks, each followed by attention where the stage has it."""

    def __init__(self, c: NCSNConfig, inner: int, width: int, attention: bool, last: bool):
        super().__init__()
        widths = [inner, *[width] * (c.layers_per_block - 1)]
        self.resnets = nn.ModuleList([c.block(each, width, groups(each)) for each in widths])
        self.attentions = nn.ModuleList([c.attention(width, 32, SCALE) for _ in widths if attention])
        self.last = last
        if not last:
            self.resnet_down = c.block(width, width, groups(width), resized=True)
            self.skip_conv = nn.Conv2d(COLOURS, width, 1)

    def forward(self, x: Tensor, picture: Tensor, time: Tensor) -> tuple[list[Tensor], Tensor]:
        """All features that it makes, the last of them for the next stage, and the picture for that one."""
        made = []
        for j, resnet in enumerate(self.resnets):
            x = resnet(x, time)
            x = self.attentions[j](x) if len(self.attentions) else x
            made.append(x)
        if not self.last:
            picture = halved(picture)
            made.append(self.resnet_down(x, time, halved) + self.skip_conv(picture))
        return made, picture


class UpStage(nn.Module):
    """Residual blocks, the last one followed by attention where the stage has it."""

    def __init__(self, c: NCSNConfig, inner: int, skips: list[int], width: int, attention: bool, last: bool):
        super().__init__()
        pairs = [(inner if j == 0 else width, skip) for j, skip in enumerate(skips)]
        # by a slip that checkpoints froze, a stage with attention divides the second of the two alone
        norms = [min(i + s // 4, 32) if attention else groups(i + s) for i, s in pairs]
        self.resnets = nn.ModuleList([c.block(i + s, width, norm) for (i, s), norm in zip(pairs, norms, strict=True)])
        self.attentions = nn.ModuleList([c.attention(width, 32, SCALE)] if attention else [])
        self.last = last
        if not last:
            self.resnet_up = c.block(width, width, groups(width), resized=True)
            self.skip_norm = nn.GroupNorm(groups(width), width, c.norm_eps)
            self.skip_conv = nn.Conv2d(width, COLOURS, 3, padding=1)

    def forward(
        self, x: Tensor, picture: Tensor | None, skips: list[Tensor], time: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Takes its skip connections from the end of the list."""
        for resnet in self.resnets:
            x = resnet(torch.cat([x, skips.pop()], dim=1), time)
        for attention in self.attentions:
            x = attention(x)
        picture = None if picture is None else doubled(picture, x.shape[-2:])
        if not self.last:
            added = self.skip_conv(F.silu(self.skip_norm(x)))
            picture = added if picture is None else picture + added
            x = self.resnet_up(x, time, partial(doubled, size=skips[-1].shape[-2:]))
        return x, picture


class MidBlock(nn.Module):
    def __init__(self, c: NCSNConfig, width: int):
        super().__init__()
        time, norm, scale = 4 * c.block_out_channels[0], c.groups(width), c.mid_block_scale_factor
        blocks = [ResnetBlock2D(width, width, time, norm, c.norm_eps, scale=scale) for _ in range(2)]
        self.resnets = nn.ModuleList(blocks)
        self.attentions = nn.ModuleList([c.attention(width, norm, scale)] if c.add_attention else [])

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        x = self.resnets[0](x, time)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x, time)


class NCSNpp(nn.Module):
    """The score of noisy pictures: the gradient of the logarithm of their density.

    forward(sample f32[B,3,h,w] around [0,1], sigma f32[B], its noise level) -> f32[B,3,h,w]. Any h, w >= 1.
    Raises CheckpointError at construction for config values it does not implement.
    """

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        c = self.config = read_config(NCSNConfig, config, ONLY)
        widths, last = c.block_out_channels, len(c.block_out_channels) - 1
        self.conv_in = nn.Conv2d(COLOURS, widths[0], 3, padding=1)
        self.time_proj = Fourier(widths[0])
        self.time_embedding = TimestepEmbedding(2 * widths[0], 4 * widths[0])
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        skips, inner = [widths[0]], widths[0]  # widths of the skip connections, in the order they are made
        for i, width in enumerate(widths):
            self.down_blocks.append(DownStage(c, inner, width, DOWN[c.down_block_types[i]], i == last))
            skips += [width] * (c.layers_per_block + (i < last))
            inner = width
        self.mid_block = MidBlock(c, inner)
        for i, width in enumerate(reversed(widths)):
            taken = [skips.pop() for _ in range(c.layers_per_block + 1)]
            self.up_blocks.append(UpStage(c, inner, taken, width, UP[c.up_block_types[i]], i == last))
            inner = width
        self.conv_norm_out = nn.GroupNorm(c.groups(widths[0]), widths[0], c.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], COLOURS, 3, padding=1)

    def forward(self, sample: Tensor, sigma: Tensor) -> Tensor:
        sigma = sigma.clamp(min=LEAST)
        time = self.time_embedding(self.time_proj(sigma).to(sample.dtype))
        picture = 2 * sample - 1 if self.config.center_input_sample else sample
        x = self.conv_in(picture)
        skips = [x]
        for stage in self.down_blocks:
            made, picture = stage(skips[-1], picture, time)
            skips += made
        x, out = self.mid_block(skips[-1], time), None
        for stage in self.up_blocks:
            x, out = stage(x, out, skips, time)
        x = self.conv_out(F.silu(self.conv_norm_out(x)))
        return (x if out is None else x + out).float() / sigma[:, None, None, None]
