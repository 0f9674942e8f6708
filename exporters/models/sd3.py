"""SD3Transformer2DModel of Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv:2403.03206, section 4), with diffusers'
config keys and tensor names.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from diffrt.configs import read_config
from diffrt.errors import CheckpointError

from .joint import JointBlock, LastNorm, TimeAndText
from .transformer import PatchEmbed, unpatched


@dataclass(frozen=True)
class SD3Config:
    sample_size: int = 128
    patch_size: int = 2
    in_channels: int = 16
    num_layers: int = 18
    attention_head_dim: int = 64
    num_attention_heads: int = 18
    joint_attention_dim: int = 4096
    caption_projection_dim: int = 1152
    pooled_projection_dim: int = 2048
    out_channels: int | None = 16
    pos_embed_max_size: int = 96
    dual_attention_layers: tuple[Any, ...] = ()
    qk_norm: Literal["rms_norm"] | None = None

    def __post_init__(self) -> None:
        if self.caption_projection_dim != self.dim:
            raise CheckpointError(f"caption_projection_dim is {self.caption_projection_dim}; allowed: {self.dim}")
        if any(type(layer) is not int for layer in self.dual_attention_layers):
            raise CheckpointError(f"dual_attention_layers is {self.dual_attention_layers}; allowed: numbers of layers")

    @property
    def dim(self) -> int:
        return self.num_attention_heads * self.attention_head_dim


class SD3Transformer2DModel(nn.Module):
    """Predicts the flow from noisy latents.

    forward(sample f32[B,C,h,w], timestep f32[B], words f32[B,S,joint], pooled f32[B,P]) -> f32[B,C,h,w]; h and w are
    multiples of the patch, at most pos_embed_max_size of them. Raises CheckpointError at construction for config values
    it does not implement.
    """

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        c = self.config = read_config(SD3Config, config, {})
        self.pos_embed = PatchEmbed(c.in_channels, c.dim, c.patch_size, c.pos_embed_max_size)
        self.time_text_embed = TimeAndText(c.pooled_projection_dim, c.dim)
        self.context_embedder = nn.Linear(c.joint_attention_dim, c.dim)
        self.transformer_blocks = nn.ModuleList(
            [
                JointBlock(
                    c.dim,
                    c.num_attention_heads,
                    c.qk_norm is not None,
                    first=False,
                    dual=i in c.dual_attention_layers,
                    last=i == c.num_layers - 1,
                )
                for i in range(c.num_layers)
            ]
        )
        self.norm_out = LastNorm(c.dim)
        self.proj_out = nn.Linear(c.dim, c.patch_size**2 * (c.out_channels or c.in_channels))

    def forward(self, sample: Tensor, timestep: Tensor, words: Tensor, pooled: Tensor) -> Tensor:
        height, width = (side // self.config.patch_size for side in sample.shape[2:])
        x = self.pos_embed(sample) + self.pos_embed.middle(height, width)
        told, words = self.time_text_embed(timestep, pooled), self.context_embedder(words)
        for block in self.transformer_blocks:
            x, words = block(x, words, told)
        return unpatched(self.proj_out(self.norm_out(x, told)), height, width, self.config.patch_size)
