"""Blocks shared by the UNet and the autoencoder; parameter names are those of diffusers' checkpoints."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoidal(timestep: Tensor, dim: int, flip_sin_to_cos: bool, freq_shift: float) -> Tensor:
    """Sinusoidal timestep embedding (Ho et al. 2020, after Vaswani et al. 2017). f32[B] -> f32[B,dim]."""
    half = dim // 2
    rate = -math.log(10000.0) / (half - freq_shift)
    angle = timestep.unsqueeze(1) * torch.exp(rate * torch.arange(half, dtype=torch.float32))
    wave = torch.cat([angle.cos(), angle.sin()] if flip_sin_to_cos else [angle.sin(), angle.cos()], dim=-1)
    return F.pad(wave, (0, 1)) if dim % 2 else wave


class TimestepEmbedding(nn.Module):
    """``told``: the width of something else that the embedding depends on."""

    def __init__(self, channels: int, dim: int, told: int | None = None):
        super().__init__()
        if told is not None:
            self.cond_proj = nn.Linear(told, channels, bias=False)
        self.linear_1 = nn.Linear(channels, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor, told: Tensor | None = None) -> Tensor:
        x = x if told is None else x + self.cond_proj(told)
        return self.linear_2(F.silu(self.linear_1(x)))


Resize = Callable[[Tensor], Tensor]


class ResnetBlock2D(nn.Module):
    """norm, SiLU, conv twice, with the time embedding added between; ``time_dim`` None leaves it out (autoencoder).

    The sum is divided by ``scale``. There is a ``shortcut`` where the channels change, unless it is said.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        time_dim: int | None,
        groups: int,
        eps: float,
        out_groups: int | None = None,
        scale: float = 1,
        shortcut: bool | None = None,
    ):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        if time_dim is not None:
            self.time_emb_proj = nn.Linear(time_dim, out_channels)
        self.norm2 = nn.GroupNorm(out_groups or groups, out_channels, eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.has_shortcut = in_channels != out_channels if shortcut is None else shortcut
        if self.has_shortcut:
            self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1)
        self.has_time, self.scale = time_dim is not None, scale

    def forward(self, x: Tensor, time: Tensor | None = None, resize: Resize | None = None) -> Tensor:
        h = F.silu(self.norm1(x))
        if resize is not None:
            x, h = resize(x), resize(h)
        h = self.conv1(h)
        if self.has_time:
            assert time is not None
            h = h + self.time_emb_proj(F.silu(time)).unsqueeze(-1).unsqueeze(-1)
        h = self.conv2(F.silu(self.norm2(h)))
        # in this order ONNX Runtime runs the shortcut first and frees x: 180 MB less at 512x512 in the autoencoder
        y = h + (self.conv_shortcut(x) if self.has_shortcut else x)
        return y if self.scale == 1 else y / self.scale


class Attention(nn.Module):
    """Multi-head attention, [B,L,D] queries over [B,S,context] keys; one scaled_dot_product_attention in the graph.
    ``bias`` [B or 1,heads or 1,L,S] is added to the logits."""

    def __init__(self, dim: int, context: int, heads: int, bias: bool = False, upcast: bool = False):
        super().__init__()
        self.heads, self.upcast = heads, upcast
        self.to_q = nn.Linear(dim, dim, bias=bias)
        self.to_k = nn.Linear(context, dim, bias=bias)
        self.to_v = nn.Linear(context, dim, bias=bias)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])

    def forward(self, x: Tensor, context: Tensor, bias: Tensor | None = None) -> Tensor:
        q, k, v = (
            y.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B,heads,L,D/heads]
            for y in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        if self.upcast:
            q, k, v = q.float(), k.float(), v.float()
        y = F.scaled_dot_product_attention(q, k, v, bias).to(x.dtype).transpose(1, 2)
        if bias is not None:
            y = y.clone(memory_format=torch.contiguous_format)  # kernels for a bias lay it out otherwise
        return self.to_out[0](y.flatten(2))


class PixelAttention(Attention):
    """Self-attention over pixels, with its norm and residual; the sum is divided by ``scale``."""

    def __init__(self, dim: int, groups: int, heads: int, eps: float, scale: float = 1):
        super().__init__(dim, dim, heads=heads, bias=True)
        self.scale = scale
        self.group_norm = nn.GroupNorm(groups, dim, eps)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        h = self.group_norm(x).flatten(2).transpose(1, 2)  # [B,H*W,C]
        y = x + super().forward(h, h).transpose(1, 2).unflatten(2, tuple(x.shape[-2:]))
        return y if self.scale == 1 else y / self.scale


class Downsample2D(nn.Module):
    """Strided convolution; ``padding`` 0 pads one row and column at the far edges alone, as the autoencoder does."""

    def __init__(self, channels: int, padding: int):
        super().__init__()
        self.padding = padding
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x if self.padding else F.pad(x, (0, 1, 0, 1)))


class Upsample2D(nn.Module):
    """Nearest-neighbour upsampling, then a convolution; by two, or to ``size`` where a skip connection sets it."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        up = F.interpolate(x, size=size) if size is not None else F.interpolate(x, scale_factor=2.0)
        return self.conv(up)
