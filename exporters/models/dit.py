"""DiTTransformer2DModel (Peebles & Xie 2022, arXiv:2212.09748): a transformer over patches of latents, told a class."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from diffrt.configs import read_config

from .layers import Attention, TimestepEmbedding, sinusoidal
from .transformer import FeedForward, PatchEmbed, modulated, positions, unpatched

WAVES = 256  # of the time's sines and cosines

# Keys of diffusers' DiTTransformer2DModel implemented for these values alone.
ONLY: dict[str, tuple] = {
    "dropout": (0,), "norm_num_groups": (32,), "activation_fn": ("gelu-approximate",), "upcast_attention": (False,),
    "norm_type": ("ada_norm_zero",), "norm_elementwise_affine": (False,), "cross_attention_dim": (None,),
    "num_vector_embeds": (None,), "only_cross_attention": (False,), "use_linear_projection": (False,),
}  # fmt: skip


@dataclass(frozen=True)
class DiTConfig:
    num_attention_heads: int = 16
    attention_head_dim: int = 72
    in_channels: int = 4
    out_channels: int | None = None
    num_layers: int = 28
    attention_bias: bool = True
    sample_size: int = 32
    patch_size: int = 2
    num_embeds_ada_norm: int = 1000
    norm_eps: float = 1e-5


class Told(nn.Module):
    """Time and class as one vector."""

    def __init__(self, classes: int, dim: int):
        super().__init__()
        self.timestep_embedder = TimestepEmbedding(WAVES, dim)
        self.class_embedder = nn.Module()
        self.class_embedder.embedding_table = nn.Embedding(classes + 1, dim)  # the last one is no class

    def forward(self, wave: Tensor, labels: Tensor) -> Tensor:
        return self.timestep_embedder(wave) + self.class_embedder.embedding_table(labels)


class Norm(nn.Module):
    """What the block is told, and what it makes of it."""

    def __init__(self, classes: int, dim: int):
        super().__init__()
        self.emb, self.linear = Told(classes, dim), nn.Linear(dim, 6 * dim)


class Block(nn.Module):
    def __init__(self, c: DiTConfig, dim: int):
        super().__init__()
        self.norm1 = Norm(c.num_embeds_ada_norm, dim)
        self.attn1 = Attention(dim, dim, c.num_attention_heads, bias=c.attention_bias)
        self.ff, self.eps = FeedForward(dim), c.norm_eps

    def forward(self, x: Tensor, wave: Tensor, labels: Tensor) -> Tensor:
        told = self.norm1.linear(F.silu(self.norm1.emb(wave, labels)))
        shift, scale, gate, shift_2, scale_2, gate_2 = told.chunk(6, dim=1)
        h = modulated(x, shift, scale)
        x = x + gate.unsqueeze(1) * self.attn1(h, h)
        return x + gate_2.unsqueeze(1) * self.ff(modulated(x, shift_2, scale_2, self.eps))


class DiTTransformer2DModel(nn.Module):
    """Predicts noise from noisy latents of a class.

    forward(sample f32[B,C,h,w], timestep f32[B], class_labels i64[B]) -> f32[B,C',h,w]; h and w multiples of the patch.
    Raises CheckpointError at construction for config values it does not implement.
    """

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        c = self.config = read_config(DiTConfig, config, ONLY)
        dim = c.num_attention_heads * c.attention_head_dim
        self.pos_embed = PatchEmbed(c.in_channels, dim, c.patch_size)
        self.transformer_blocks = nn.ModuleList([Block(c, dim) for _ in range(c.num_layers)])
        self.proj_out_1 = nn.Linear(dim, 2 * dim)
        self.proj_out_2 = nn.Linear(dim, c.patch_size**2 * (c.out_channels or c.in_channels))

    def forward(self, sample: Tensor, timestep: Tensor, class_labels: Tensor) -> Tensor:
        c = self.config
        height, width = (side // c.patch_size for side in sample.shape[2:])
        x = self.pos_embed(sample)
        x = x + positions(height, width, x.shape[-1], c.sample_size // c.patch_size, 1.0).to(x.dtype)
        wave = sinusoidal(timestep, WAVES, True, 1).to(sample.dtype)
        blocks: list[Any] = list(self.transformer_blocks)
        for block in blocks:
            x = block(x, wave, class_labels)
        told = blocks[0].norm1.emb(wave, class_labels)
        shift, scale = self.proj_out_1(F.silu(told)).chunk(2, dim=1)
        return unpatched(self.proj_out_2(modulated(x, shift, scale)), height, width, c.patch_size)
