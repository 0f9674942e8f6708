"""The encoder of T5 1.1 (Raffel et al. 2019, arXiv:1910.10683; its feed-forward is gated, Shazeer 2020,
arXiv:2002.05202), with transformers' config keys and tensor names.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffrt.configs import read_config
from diffrt.errors import CheckpointError

from .transformer import RMSNorm, masking

PAD: Literal[0] = 0  # the id of padding


@dataclass(frozen=True)
class T5Config:
    """What its numbers depend on; transformers has more keys."""

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_heads: int
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: Literal["gated-gelu"] = "gated-gelu"
    pad_token_id: Literal[0] = PAD

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> "T5Config":
        known = {f.name for f in fields(cls)}
        if config.get("feed_forward_proj", "relu") != "gated-gelu":
            raise CheckpointError("config key 'feed_forward_proj' is not 'gated-gelu': this is T5 before 1.1")
        return read_config(cls, {key: value for key, value in config.items() if key in known}, {})


class SelfAttention(nn.Module):
    """Logits are not scaled, and a learnt number for each distance is added to them: the first block's, for all."""

    def __init__(self, c: T5Config, first: bool):
        super().__init__()
        inner, self.heads = c.num_heads * c.d_kv, c.num_heads
        self.q, self.k, self.v = (nn.Linear(c.d_model, inner, bias=False) for _ in range(3))
        self.o = nn.Linear(inner, c.d_model, bias=False)
        if first:
            self.relative_attention_bias = nn.Embedding(c.relative_attention_num_buckets, c.num_heads)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (y(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        y = y.transpose(1, 2).clone(memory_format=torch.contiguous_format)  # kernels for a mask lay y out otherwise
        return self.o(y.flatten(2))


class FeedForward(nn.Module):
    def __init__(self, c: T5Config):
        super().__init__()
        self.wi_0, self.wi_1 = (nn.Linear(c.d_model, c.d_ff, bias=False) for _ in range(2))
        self.wo = nn.Linear(c.d_ff, c.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.wo(F.gelu(self.wi_0(x), approximate="tanh") * self.wi_1(x))


class AttentionLayer(nn.Module):
    def __init__(self, c: T5Config, first: bool):
        super().__init__()
        self.SelfAttention, self.layer_norm = SelfAttention(c, first), RMSNorm(c.d_model, c.layer_norm_epsilon)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        return x + self.SelfAttention(self.layer_norm(x), bias)


class FeedForwardLayer(nn.Module):
    def __init__(self, c: T5Config):
        super().__init__()
        self.DenseReluDense, self.layer_norm = FeedForward(c), RMSNorm(c.d_model, c.layer_norm_epsilon)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.DenseReluDense(self.layer_norm(x))


class Block(nn.Module):
    def __init__(self, c: T5Config, first: bool):
        super().__init__()
        self.layer = nn.ModuleList([AttentionLayer(c, first), FeedForwardLayer(c)])

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        return self.layer[1](self.layer[0](x, bias))


class Encoder(nn.Module):
    def __init__(self, c: T5Config):
        super().__init__()
        self.block = nn.ModuleList([Block(c, i == 0) for i in range(c.num_layers)])
        self.final_layer_norm = RMSNorm(c.d_model, c.layer_norm_epsilon)


class T5EncoderModel(nn.Module):
    """forward(input_ids i64[B,S]) -> f32[B,S,d_model]. Padding is read like any token, as most diffusion models have
    it, unless it is said which tokens to read: kept bool[B,S]."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        c = self.config = T5Config.read(config)
        self.shared, self.encoder = nn.Embedding(c.vocab_size, c.d_model), Encoder(c)

    def forward(self, input_ids: Tensor, kept: Tensor | None = None) -> Tensor:
        x = self.shared(input_ids)
        blocks: list[Any] = list(self.encoder.block)
        numbers = blocks[0].layer[0].SelfAttention.relative_attention_bias(self.buckets(input_ids.shape[1]))
        bias = numbers.permute(2, 0, 1).unsqueeze(0)  # [1,heads,S,S]
        if kept is not None:
            bias = bias + masking(kept, x.dtype)
        for block in blocks:
            x = block(x, bias)
        return self.encoder.final_layer_norm(x)

    def buckets(self, length: int) -> Tensor:
        """Which number each query has for each key: one for every small distance, then wider ones, in both
        directions. i64[S,S]"""
        c, place = self.config, torch.arange(length)
        distance = place.unsqueeze(0) - place.unsqueeze(1)
        half = c.relative_attention_num_buckets // 2
        exact = half // 2
        far = distance.abs().clamp(min=1).float()
        grown = exact + torch.log(far / exact) / math.log(c.relative_attention_max_distance / exact) * (half - exact)
        bucket = torch.where(distance.abs() < exact, distance.abs(), grown.long().clamp(max=half - 1))
        return bucket + half * (distance > 0).long()
