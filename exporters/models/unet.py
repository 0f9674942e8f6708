"""UNet2DConditionModel of Stable Diffusion 1.x, 2.x (Rombach et al. 2022, "High-Resolution Image Synthesis with Latent
Diffusion Models") and XL (Podell et al. 2023, arXiv:2307.01952, section 2), with diffusers' config keys and tensor
names, written to trace cleanly.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffrt.model_configs import UNetConfig

from .layers import Attention, Downsample2D, ResnetBlock2D, TimestepEmbedding, Upsample2D, sinusoidal


class GEGLU(nn.Module):
    def __init__(self, dim: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(dim, inner * 2)

    def forward(self, x: Tensor) -> Tensor:
        """As two linear layers: the halves of a weight are found at load, those of an activation at every step."""
        halves = zip(self.proj.weight.chunk(2), self.proj.bias.chunk(2), strict=True)
        value, gate = (F.linear(x, weight, bias) for weight, bias in halves)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.net = nn.ModuleList([GEGLU(dim, dim * 4), nn.Identity(), nn.Linear(dim * 4, dim)])

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](self.net[0](x))


class TransformerBlock(nn.Module):
    """``blind``: the first attention is over the context as well, and pixels do not see one another."""

    def __init__(self, dim: int, heads: int, context: int, upcast: bool, blind: bool):
        super().__init__()
        self.blind = blind
        self.norm1, self.attn1 = nn.LayerNorm(dim), Attention(dim, context if blind else dim, heads, upcast=upcast)
        self.norm2, self.attn2 = nn.LayerNorm(dim), Attention(dim, context, heads, upcast=upcast)
        self.norm3, self.ff = nn.LayerNorm(dim), FeedForward(dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = self.norm1(x)
        x = x + self.attn1(h, context if self.blind else h)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class Transformer2D(nn.Module):
    """The transformer over flattened pixels; its projections are 1x1 convolutions in SD1, linear layers in SD2."""

    def __init__(
        self, dim: int, heads: int, context: int, groups: int, linear: bool, upcast: bool, layers: int, blind: bool
    ):
        super().__init__()
        self.linear = linear
        self.norm = nn.GroupNorm(groups, dim, 1e-6)
        self.proj_in = nn.Linear(dim, dim) if linear else nn.Conv2d(dim, dim, 1)
        self.transformer_blocks = nn.ModuleList(
            [TransformerBlock(dim, heads, context, upcast, blind) for _ in range(layers)]
        )
        self.proj_out = nn.Linear(dim, dim) if linear else nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        h = self.norm(x)
        h = h if self.linear else self.proj_in(h)
        h = h.flatten(2).transpose(1, 2)  # [B,H*W,C]
        h = self.proj_in(h) if self.linear else h
        for block in self.transformer_blocks:
            h = block(h, context)
        h = self.proj_out(h) if self.linear else h
        h = h.transpose(1, 2).unflatten(2, (height, width))
        return x + (h if self.linear else self.proj_out(h))


def transformer(c: UNetConfig, block: int, dim: int) -> Transformer2D:
    """Of a block of the config; -1 is the middle, which has the last one's numbers."""
    return Transformer2D(
        dim, c.heads[block], c.cross_attention_dim, c.norm_num_groups, c.use_linear_projection, c.upcast_attention,
        c.transformers[block], c.blind[block],
    )  # fmt: skip


class Stage(nn.Module):
    """Residual blocks, each followed by a transformer where the stage, a block of the config, has cross-attention."""

    def __init__(self, c: UNetConfig, block: int, widths: list[tuple[int, int]], attention: bool, time_dim: int):
        super().__init__()
        self.resnets = nn.ModuleList([ResnetBlock2D(i, o, time_dim, c.norm_num_groups, c.norm_eps) for i, o in widths])
        if attention:
            self.attentions = nn.ModuleList([transformer(c, block, o) for _, o in widths])
        self.has_attention = attention

    def layer(self, j: int, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
        x = self.resnets[j](x, time)
        return self.attentions[j](x, context) if self.has_attention else x


class MidBlock(nn.Module):
    def __init__(self, c: UNetConfig, dim: int, time_dim: int):
        super().__init__()
        self.attentions = nn.ModuleList([transformer(c, -1, dim)])
        self.resnets = nn.ModuleList(
            [ResnetBlock2D(dim, dim, time_dim, c.norm_num_groups, c.norm_eps) for _ in range(2)]
        )

    def forward(self, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
        x = self.attentions[0](self.resnets[0](x, time), context)
        return self.resnets[1](x, time)


class UNet2DConditionModel(nn.Module):
    """Predicts noise (or v) from noisy latents.

    forward(sample f32[B,C,h,w], timestep f32[B], encoder_hidden_states f32[B,S,D]) -> f32[B,C,h,w]. Any h, w >= 1.
    Some are told more: text_embeds f32[B,E] and time_ids f32[B,N] together, guidance f32[B], class_labels i64[B].
    Raises CheckpointError at construction for config values it does not implement.
    """

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        c = self.config = UNetConfig.read(config)
        blocks, layers, down, up = c.blocks, c.layers, c.down, c.up
        widths, time_dim = c.block_out_channels, 4 * c.block_out_channels[0]
        self.conv_in = nn.Conv2d(c.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(widths[0], time_dim, c.time_cond_proj_dim)
        if c.projection_class_embeddings_input_dim:
            self.add_embedding = TimestepEmbedding(c.projection_class_embeddings_input_dim, time_dim)
        if c.num_class_embeds:
            self.class_embedding = nn.Embedding(c.num_class_embeds, time_dim)
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        skips, channels = [widths[0]], widths[0]  # widths of the skip connections, in the order they are made
        for i, width in enumerate(widths):
            pairs = [(channels if j == 0 else width, width) for j in range(layers[i])]
            stage = Stage(c, i, pairs, down[i], time_dim)
            skips += [width] * layers[i]
            if i < blocks - 1:
                stage.downsamplers = nn.ModuleList([Downsample2D(width, c.downsample_padding)])
                skips.append(width)
            self.down_blocks.append(stage)
            channels = width
        self.mid_block = MidBlock(c, channels, time_dim)
        for i, width in enumerate(reversed(widths)):
            pairs = []
            for _ in range(layers[blocks - 1 - i] + 1):
                pairs.append((channels + skips.pop(), width))
                channels = width
            stage = Stage(c, blocks - 1 - i, pairs, up[i], time_dim)
            if i < blocks - 1:
                stage.upsamplers = nn.ModuleList([Upsample2D(width)])
            self.up_blocks.append(stage)
        self.conv_norm_out = nn.GroupNorm(c.norm_num_groups, widths[0], c.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], c.out_channels, 3, padding=1)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        text_embeds: Tensor | None = None,
        time_ids: Tensor | None = None,
        guidance: Tensor | None = None,
        class_labels: Tensor | None = None,
    ) -> Tensor:
        c, context = self.config, encoder_hidden_states
        wave = self.wave(timestep, c.block_out_channels[0]).to(sample.dtype)
        scale = None
        if guidance is not None and c.time_cond_proj_dim:  # Luo et al. 2023, arXiv:2310.04378, section 4.2
            scale = sinusoidal(1000 * (guidance - 1), c.time_cond_proj_dim, False, 1).to(sample.dtype)
        time = self.time_embedding(wave, scale)
        if text_embeds is not None and time_ids is not None and c.addition_time_embed_dim:
            sizes = self.wave(time_ids.flatten(), c.addition_time_embed_dim).unflatten(0, time_ids.shape).flatten(1)
            time = time + self.add_embedding(torch.cat([text_embeds, sizes.to(sample.dtype)], dim=1))
        if class_labels is not None:
            time = time + self.class_embedding(class_labels)
        x = self.conv_in(sample)
        skips = [x]
        for i, stage in enumerate(self.down_blocks):
            for j in range(len(stage.resnets)):
                x = stage.layer(j, x, time, context)
                skips.append(x)
            if i < len(self.down_blocks) - 1:
                x = stage.downsamplers[0](x)
                skips.append(x)
        x = self.mid_block(x, time, context)
        for i, stage in enumerate(self.up_blocks):
            for j in range(len(stage.resnets)):
                x = stage.layer(j, torch.cat([x, skips.pop()], dim=1), time, context)
            if i < len(self.up_blocks) - 1:
                x = stage.upsamplers[0](x, size=skips[-1].shape[-2:])
        return self.conv_out(F.silu(self.conv_norm_out(x)))

    def wave(self, numbers: Tensor, dim: int) -> Tensor:  # [N] -> [N,dim]
        return sinusoidal(numbers, dim, self.config.flip_sin_to_cos, self.config.freq_shift)
