"""FluxTransformer2DModel (Black Forest Labs 2024), with diffusers' config keys and tensor names. Packing latents into
tokens of 2x2 pixels, and the places of those, are inside: it takes and gives latents.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffrt.configs import read_config
from diffrt.errors import CheckpointError

from .joint import JointAttention, JointBlock, LastNorm, TimeAndText, Told, Turn
from .transformer import modulated

THETA = 10000.0
PACK = 2  # latent pixels of a token, each way


@dataclass(frozen=True)
class FluxConfig:
    in_channels: int = 64
    out_channels: int | None = None
    num_layers: int = 19
    num_single_layers: int = 38
    attention_head_dim: int = 128
    num_attention_heads: int = 24
    joint_attention_dim: int = 4096
    pooled_projection_dim: int = 768
    guidance_embeds: bool = False
    axes_dims_rope: tuple[int, ...] = (16, 56, 56)

    def __post_init__(self) -> None:
        if sum(self.axes_dims_rope) != self.attention_head_dim or len(self.axes_dims_rope) != 3:
            raise CheckpointError(
                f"axes_dims_rope = {list(self.axes_dims_rope)} must be three that make up attention_head_dim = "
                f"{self.attention_head_dim}"
            )


class SingleBlock(nn.Module):
    """Words and picture as one sequence; attention and feed-forward side by side."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.norm, self.proj_mlp = Told(dim, 3), nn.Linear(dim, 4 * dim)
        self.attn = JointAttention(dim, heads, norms=True, words=False, out=False)
        self.proj_out = nn.Linear(5 * dim, dim)

    def forward(self, x: Tensor, told: Tensor, turn: Turn) -> Tensor:
        shift, scale, gate = self.norm(told)
        h = modulated(x, shift, scale)
        y = torch.cat([self.attn.over_all(h, turn), F.gelu(self.proj_mlp(h), approximate="tanh")], dim=2)
        return x + gate.unsqueeze(1) * self.proj_out(y)


class FluxTransformer2DModel(nn.Module):
    """Predicts the flow from noisy latents.

    forward(sample f32[B,C,h,w], timestep f32[B], words f32[B,S,joint], pooled f32[B,P], guidance f32[B] where it is
    distilled) -> f32[B,C,h,w]; h and w even. Raises CheckpointError at construction for config values it does not
    implement.
    """

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        c = self.config = read_config(FluxConfig, config, {"patch_size": (1,)})
        dim = c.num_attention_heads * c.attention_head_dim
        self.time_text_embed = TimeAndText(c.pooled_projection_dim, dim, c.guidance_embeds)
        self.context_embedder, self.x_embedder = nn.Linear(c.joint_attention_dim, dim), nn.Linear(c.in_channels, dim)
        self.transformer_blocks = nn.ModuleList(
            [JointBlock(dim, c.num_attention_heads, norms=True, first=True) for _ in range(c.num_layers)]
        )
        self.single_transformer_blocks = nn.ModuleList(
            [SingleBlock(dim, c.num_attention_heads) for _ in range(c.num_single_layers)]
        )
        self.norm_out = LastNorm(dim)
        self.proj_out = nn.Linear(dim, c.out_channels or c.in_channels)

    def forward(
        self, sample: Tensor, timestep: Tensor, words: Tensor, pooled: Tensor, guidance: Tensor | None = None
    ) -> Tensor:
        height, width = (side // PACK for side in sample.shape[2:])
        x = sample.unflatten(3, (width, PACK)).unflatten(2, (height, PACK))
        x = self.x_embedder(x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2))
        told = self.time_text_embed(timestep, pooled, None if guidance is None else guidance * 1000)
        words = self.context_embedder(words)
        turn = turning(self.config.axes_dims_rope, words.shape[1], height, width, x.dtype)
        for block in self.transformer_blocks:
            x, words = block(x, words, told, turn)
        length, x = words.shape[1], torch.cat([words, x], dim=1)
        for single in self.single_transformer_blocks:
            x = single(x, told, turn)
        x = self.proj_out(self.norm_out(x[:, length:], told))
        x = x.unflatten(2, (-1, PACK, PACK)).unflatten(1, (height, width))
        return x.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def turning(dims: tuple[int, ...], words: int, height: int, width: int, dtype: torch.dtype) -> Turn:
    """Rotary places (Su et al. 2021, arXiv:2104.09864, eq. 34) in three axes: words stand at 0, a picture's tokens at
    (0, row, column)."""
    rows = torch.arange(height, dtype=torch.float32).unsqueeze(1).expand(height, width).flatten()
    columns = torch.arange(width, dtype=torch.float32).unsqueeze(0).expand(height, width).flatten()
    angles = []
    for dim, place in zip(dims, (torch.zeros_like(rows), rows, columns), strict=True):
        rate = THETA ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        place = torch.cat([torch.zeros(words), place])
        angles.append(place.unsqueeze(1) * rate.float())
    angle = torch.cat(angles, dim=1).unsqueeze(-1)  # [L,D/2,1]
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)

    def turn(x: Tensor) -> Tensor:  # [B,heads,L,D]
        a, b = x.unflatten(-1, (-1, 2)).split(1, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)

    return turn
