"""PixArtTransformer2DModel of PixArt-alpha and -sigma (Chen et al. 2023, arXiv:2310.00426, section 2.3; 2024,
arXiv:2403.04692): a diffusion transformer that attends to the tokens of a prompt, and whose blocks share what the time
says and each move it by a table of their own. Config keys and tensor names are those of diffusers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffrt.configs import read_config
from diffrt.errors import CheckpointError

from .layers import Attention, TimestepEmbedding, sinusoidal
from .transformer import FeedForward, PatchEmbed, masking, modulated, positions, unpatched

WAVES = 256  # of the sines and cosines of each number it is told
SIZED = 128  # the sample_size of those that are told of sizes, where the config does not say

# Keys of diffusers' PixArtTransformer2DModel, and of the Transformer2DModel that it was, implemented for these values.
ONLY: dict[str, tuple] = {
    "dropout": (0,), "norm_num_groups": (32,), "activation_fn": ("gelu-approximate",), "upcast_attention": (False,),
    "norm_type": ("ada_norm_single",), "norm_elementwise_affine": (False,), "attention_type": ("default",),
    "num_embeds_ada_norm": (1000,), "num_vector_embeds": (None,), "only_cross_attention": (False,),
    "double_self_attention": (False,), "use_linear_projection": (False,),
}  # fmt: skip


@dataclass(frozen=True)
class PixArtConfig:
    num_attention_heads: int = 16
    attention_head_dim: int = 72
    in_channels: int = 4
    out_channels: int | None = 8
    num_layers: int = 28
    cross_attention_dim: int = 1152
    attention_bias: bool = True
    sample_size: int = 128
    patch_size: int = 2
    norm_eps: float = 1e-6
    interpolation_scale: float | None = None
    use_additional_conditions: bool | None = None
    caption_channels: int | None = None

    def __post_init__(self) -> None:
        if self.caption_channels is not None and self.cross_attention_dim != self.dim:
            raise CheckpointError(
                f"cross_attention_dim is {self.cross_attention_dim}; allowed: {self.dim}, as wide as captions are made"
            )
        if self.sized and self.dim % 3:
            raise CheckpointError(f"it is told of three numbers in {self.dim} channels: allowed is a multiple of 3")

    @property
    def dim(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    @property
    def sized(self) -> bool:
        """Whether it is told of the picture's size and ratio."""
        told = self.use_additional_conditions
        return self.sample_size == SIZED if told is None else told

    @property
    def scale(self) -> float:
        """Of the grid of positions."""
        return max(self.sample_size // 64, 1) if self.interpolation_scale is None else self.interpolation_scale


class Told(nn.Module):
    """Time and, where it is told of them, height, width and their ratio as one vector."""

    def __init__(self, dim: int, sized: bool):
        super().__init__()
        self.timestep_embedder = TimestepEmbedding(WAVES, dim)
        if sized:
            self.resolution_embedder = TimestepEmbedding(WAVES, dim // 3)
            self.aspect_ratio_embedder = TimestepEmbedding(WAVES, dim // 3)

    def forward(self, timestep: Tensor, sizes: Tensor | None, dtype: torch.dtype) -> Tensor:
        told = self.timestep_embedder(sinusoidal(timestep, WAVES, True, 0).to(dtype))
        if sizes is None:
            return told
        height, width, ratio = sinusoidal(sizes, WAVES, True, 0).to(dtype).split(1)
        embedders = (self.resolution_embedder, self.resolution_embedder, self.aspect_ratio_embedder)
        parts = zip(embedders, (height, width, ratio), strict=True)
        return told + torch.cat([embedder(wave) for embedder, wave in parts], dim=1)


class Single(nn.Module):
    """What all blocks are told, and what is made of it for them: six vectors side by side."""

    def __init__(self, dim: int, sized: bool):
        super().__init__()
        self.emb, self.linear = Told(dim, sized), nn.Linear(dim, 6 * dim)


class Caption(nn.Module):
    """Of each token of a prompt: linear, GELU in its tanh form, linear."""

    def __init__(self, width: int, dim: int):
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(width, dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.gelu(self.linear_1(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, c: PixArtConfig):
        super().__init__()
        self.attn1 = Attention(c.dim, c.dim, c.num_attention_heads, bias=c.attention_bias)
        self.attn2 = Attention(c.dim, c.cross_attention_dim, c.num_attention_heads, bias=c.attention_bias)
        self.ff, self.eps = FeedForward(c.dim), c.norm_eps
        self.scale_shift_table = nn.Parameter(torch.zeros(6, c.dim))

    def forward(self, x: Tensor, words: Tensor, bias: Tensor, told: Tensor) -> Tensor:
        shift, scale, gate, shift_2, scale_2, gate_2 = (self.scale_shift_table.flatten() + told).chunk(6, dim=1)
        h = modulated(x, shift, scale, self.eps)
        x = x + gate.unsqueeze(1) * self.attn1(h, h)
        x = x + self.attn2(x, words, bias)
        return x + gate_2.unsqueeze(1) * self.ff(modulated(x, shift_2, scale_2, self.eps))


class PixArtTransformer2DModel(nn.Module):
    """Predicts noise, and often its variance, from noisy latents.

    forward(sample f32[B,C,h,w], timestep f32[B], words f32[B,S,D], kept bool[B,S]: which of them are text, sizes
    f32[3]: height, width in pixels and their ratio, where it is told of them) -> f32[B,C',h,w]; h and w multiples of
    the patch. Raises CheckpointError at construction for config values it does not implement.
    """

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        c = self.config = read_config(PixArtConfig, config, ONLY)
        self.pos_embed = PatchEmbed(c.in_channels, c.dim, c.patch_size)
        self.adaln_single = Single(c.dim, c.sized)
        if c.caption_channels is not None:
            self.caption_projection = Caption(c.caption_channels, c.dim)
        self.transformer_blocks = nn.ModuleList([Block(c) for _ in range(c.num_layers)])
        self.scale_shift_table = nn.Parameter(torch.zeros(2, c.dim))
        self.proj_out = nn.Linear(c.dim, c.patch_size**2 * (c.out_channels or c.in_channels))

    def forward(
        self, sample: Tensor, timestep: Tensor, words: Tensor, kept: Tensor, sizes: Tensor | None = None
    ) -> Tensor:
        c = self.config
        height, width = (side // c.patch_size for side in sample.shape[2:])
        x = self.pos_embed(sample)
        x = x + positions(height, width, c.dim, c.sample_size // c.patch_size, c.scale).to(x.dtype)
        told = self.adaln_single.emb(timestep, sizes, x.dtype)
        six = self.adaln_single.linear(F.silu(told))
        words = words if c.caption_channels is None else self.caption_projection(words)
        bias = masking(kept, x.dtype).expand(-1, -1, x.shape[1], -1)  # ONNX Runtime wants one for each query
        for block in self.transformer_blocks:
            x = block(x, words, bias, six)
        shift, scale = (self.scale_shift_table.flatten() + torch.cat([told, told], dim=1)).chunk(2, dim=1)
        return unpatched(self.proj_out(modulated(x, shift, scale)), height, width, c.patch_size)
