"""The network of the latent upscaler (Crowson 2022): a UNet without a middle, whose norms are told the time and whose
features are halved and doubled by a filter. It is diffusers' UNet2DConditionModel of blocks named K, with its config
keys and tensor names.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffrt.configs import read_config
from diffrt.errors import CheckpointError

from .layers import Attention
from .ncsn import taps

GROUP = 32  # channels that are normalised together
EPS = 1e-5  # of the norms before attention
MOST = 4  # blocks: more halve latents below what diffrt/tasks/latent_upscale.py takes

# Keys of diffusers' UNet2DConditionModel implemented for these values alone, or of no effect on blocks named K.
ONLY: dict[str, tuple] = {
    "act_fn": ("gelu",), "timestep_post_act": ("gelu",), "time_embedding_type": ("fourier",),
    "time_embedding_dim": (None,), "time_embedding_act_fn": (None,), "mid_block_type": (None,),
    "norm_num_groups": (None,), "conv_in_kernel": (1,), "conv_out_kernel": (1,), "center_input_sample": (False,),
    "dropout": (0,), "only_cross_attention": (False,), "dual_cross_attention": (False,), "upcast_attention": (False,),
    "class_embed_type": (None,), "num_class_embeds": (None,), "addition_embed_type": (None,),
    "encoder_hid_dim": (None,), "encoder_hid_dim_type": (None,), "attention_type": ("default",),
    "num_attention_heads": (None,), "resnet_out_scale_factor": (1,), "resnet_skip_time_act": (False,),
    "class_embeddings_concat": (False,), "mid_block_only_cross_attention": (None, False),
    "cross_attention_norm": (None, "layer_norm"), "resnet_time_scale_shift": ("default", "scale_shift"),
    "transformer_layers_per_block": (1,), "reverse_transformer_layers_per_block": (None,),
    "use_linear_projection": (False, True), "downsample_padding": (0, 1), "mid_block_scale_factor": (1,),
    "freq_shift": (0,), "addition_time_embed_dim": (None,), "addition_embed_type_num_heads": (64,),
    "projection_class_embeddings_input_dim": (None,),
}  # fmt: skip


@dataclass(frozen=True)
class KUNetConfig:
    time_cond_proj_dim: int
    block_out_channels: tuple[int, ...]
    down_block_types: tuple[str, ...]
    up_block_types: tuple[str, ...]
    in_channels: int = 4
    out_channels: int = 4
    layers_per_block: int = 2
    attention_head_dim: int = 8  # the width of a head
    cross_attention_dim: int = 1280
    norm_eps: float = 1e-5
    flip_sin_to_cos: bool = True
    sample_size: int | tuple[int, int] | None = None

    def __post_init__(self) -> None:
        blocks, widths = len(self.block_out_channels), self.block_out_channels
        down = ("KDownBlock2D", *("KCrossAttnDownBlock2D",) * (blocks - 1))
        up = (*("KCrossAttnUpBlock2D",) * (blocks - 1), "KUpBlock2D")
        for key, kinds, allowed in (
            ("down_block_types", self.down_block_types, down),
            ("up_block_types", self.up_block_types, up),
        ):
            if kinds != allowed or not 2 <= blocks <= MOST:
                raise CheckpointError(f"config key {key!r} is {list(kinds)}; allowed: {', '.join(allowed)}")
        if not widths[-1] == widths[-2] == self.time_dim or widths[-1] in widths[:-2]:
            raise CheckpointError(
                f"block_out_channels = {list(widths)}: the last two, and no others, must be {self.time_dim}, twice the "
                "first"
            )
        if any(width % GROUP or width % self.attention_head_dim for width in widths):
            raise CheckpointError(
                f"block_out_channels = {list(widths)} are not multiples of {GROUP} and of attention_head_dim = "
                f"{self.attention_head_dim}"
            )

    @property
    def time_dim(self) -> int:
        return 2 * self.block_out_channels[0]


class ToldNorm(nn.Module):
    """Group norm, scaled and shifted by what the time says."""

    def __init__(self, channels: int, time_dim: int, groups: int, eps: float):
        super().__init__()
        self.groups, self.eps = groups, eps
        self.linear = nn.Linear(time_dim, 2 * channels)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.linear(time).unsqueeze(-1).unsqueeze(-1).chunk(2, dim=1)
        return F.group_norm(x, self.groups, eps=self.eps) * (1 + scale) + shift


class Residual(nn.Module):
    """Twice norm, GELU and convolution, the second one to ``given`` channels."""

    def __init__(self, taken: int, width: int, given: int, c: KUNetConfig):
        super().__init__()
        self.norm1 = ToldNorm(taken, c.time_dim, taken // GROUP, c.norm_eps)
        self.conv1 = nn.Conv2d(taken, width, 3, padding=1)
        self.norm2 = ToldNorm(width, c.time_dim, width // GROUP, c.norm_eps)
        self.conv2 = nn.Conv2d(width, given, 3, padding=1)
        self.has_shortcut = taken != given
        if self.has_shortcut:
            self.conv_shortcut = nn.Conv2d(taken, given, 1, bias=False)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv1(F.gelu(self.norm1(x, time)))
        h = self.conv2(F.gelu(self.norm2(h, time)))
        return h + (self.conv_shortcut(x) if self.has_shortcut else x)


class WordAttention(Attention):
    """Over words, which are normalised first."""

    def __init__(self, dim: int, context: int, heads: int):
        super().__init__(dim, context, heads, bias=True)
        self.norm_cross = nn.LayerNorm(context)

    def forward(self, x: Tensor, context: Tensor, bias: Tensor | None = None) -> Tensor:
        return super().forward(x, self.norm_cross(context), bias)


class Attentions(nn.Module):
    """Of pixels to one another, where ``own``, and then to words."""

    def __init__(self, dim: int, c: KUNetConfig, own: bool):
        super().__init__()
        heads, groups = dim // c.attention_head_dim, dim // GROUP
        self.own = own
        if own:
            self.norm1 = ToldNorm(dim, c.time_dim, groups, EPS)
            self.attn1 = Attention(dim, dim, heads, bias=True)
        self.norm2 = ToldNorm(dim, c.time_dim, groups, EPS)
        self.attn2 = WordAttention(dim, c.cross_attention_dim, heads)

    def forward(self, x: Tensor, time: Tensor, words: Tensor) -> Tensor:
        size = tuple(x.shape[2:])
        if self.own:
            h = self.norm1(x, time).flatten(2).transpose(1, 2)  # [B,h*w,C]
            x = x + self.attn1(h, h).transpose(1, 2).unflatten(2, size)
        h = self.norm2(x, time).flatten(2).transpose(1, 2)
        return x + self.attn2(h, words).transpose(1, 2).unflatten(2, size)


class Stage(nn.Module):
    """Residual blocks of a width, each followed by attention where ``words``; the last one gives another width."""

    def __init__(self, c: KUNetConfig, taken: int, width: int, given: int, words: bool, own: bool):
        super().__init__()
        last = c.layers_per_block - 1
        outputs = [given if j == last else width for j in range(c.layers_per_block)]
        self.resnets = nn.ModuleList([Residual(width if j else taken, width, o, c) for j, o in enumerate(outputs)])
        if words:
            self.attentions = nn.ModuleList([Attentions(o, c, own) for o in outputs])
        self.words = words

    def forward(self, x: Tensor, time: Tensor, words: Tensor) -> Tensor:
        for j, resnet in enumerate(self.resnets):
            x = resnet(x, time)
            x = self.attentions[j](x, time, words) if self.words else x
        return x


class Fourier(nn.Module):
    """f32[B] -> f32[B,2*channels]."""

    def __init__(self, channels: int, flip: bool):
        super().__init__()
        self.flip = flip
        self.weight = nn.Parameter(torch.zeros(channels))

    def forward(self, time: Tensor) -> Tensor:
        angle = 2 * math.pi * time.unsqueeze(1) * self.weight.float()
        return torch.cat([angle.cos(), angle.sin()] if self.flip else [angle.sin(), angle.cos()], dim=-1)


class TimeEmbedding(nn.Module):
    def __init__(self, c: KUNetConfig):
        super().__init__()
        self.cond_proj = nn.Linear(c.time_cond_proj_dim, c.time_dim, bias=False)
        self.linear_1, self.linear_2 = nn.Linear(c.time_dim, c.time_dim), nn.Linear(c.time_dim, c.time_dim)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        return F.gelu(self.linear_2(F.gelu(self.linear_1(x + self.cond_proj(told)))))


class KUNet(nn.Module):
    """forward(sample f32[B,C,h,w], time f32[B], words f32[B,S,D], told f32[B,N]) -> f32[B,O,h,w]; after every halving
    h and w are at least 2. Raises CheckpointError at construction for config values it does not implement.
    """

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        c = self.config = read_config(KUNetConfig, config, ONLY)
        widths = c.block_out_channels
        last = len(widths) - 1
        self.conv_in, self.conv_out = nn.Conv2d(c.in_channels, widths[0], 1), nn.Conv2d(widths[0], c.out_channels, 1)
        self.time_proj, self.time_embedding = Fourier(c.time_dim // 2, c.flip_sin_to_cos), TimeEmbedding(c)
        self.down_blocks = nn.ModuleList(
            [Stage(c, widths[max(i - 1, 0)], w, w, words=i > 0, own=i == last) for i, w in enumerate(widths)]
        )
        self.up_blocks = nn.ModuleList(
            [
                Stage(c, w if i == last else 2 * w, w, widths[max(i - 1, 0)], words=i > 0, own=i == last)
                for i, w in reversed(list(enumerate(widths)))
            ]
        )

    def forward(self, sample: Tensor, time: Tensor, words: Tensor, told: Tensor) -> Tensor:
        emb = self.time_embedding(self.time_proj(time).to(sample.dtype), told)
        x = self.conv_in(sample)
        skips: list[Tensor] = []
        for i, stage in enumerate(self.down_blocks):
            x = stage(halved(x) if i else x, emb, words)
            skips.append(x)
        x = self.up_blocks[0](skips.pop(), emb, words)
        for stage in self.up_blocks[1:]:
            skip = skips.pop()
            x = stage(torch.cat([doubled(x, (skip.shape[2], skip.shape[3])), skip], dim=1), emb, words)
        return self.conv_out(x)


def halved(x: Tensor) -> Tensor:
    """[B,C,h,w] -> [B,C,h/2,w/2], rounded down: filtered, with what is beyond the edges mirrored."""
    return F.conv2d(F.pad(x, (1, 1, 1, 1), "reflect"), taps(x, 1), stride=2, groups=x.shape[1])


def doubled(x: Tensor, size: tuple[int, int]) -> Tensor:
    """[B,C,h,w] -> [B,C,*size], about twice as high and wide."""
    height, width = size
    full = F.conv_transpose2d(F.pad(x, (1, 1, 1, 1), "reflect"), taps(x, 4), stride=2, groups=x.shape[1])
    return full[:, :, 3 : 3 + height, 3 : 3 + width]
