"""LDMBertModel, the text encoder that latent diffusion was trained with (Rombach et al. 2022, arXiv:2112.10752,
appendix E.2.1): a transformer over the tokens of BERT, with diffusers' config keys and tensor names.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffrt.configs import read_config


@dataclass(frozen=True)
class LDMBertConfig:
    """What its numbers depend on; diffusers has more keys."""

    vocab_size: int = 30522
    max_position_embeddings: int = 77
    encoder_layers: int = 32
    encoder_ffn_dim: int = 5120
    encoder_attention_heads: int = 8
    head_dim: int = 64
    d_model: int = 1280
    activation_function: Literal["gelu"] = "gelu"

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> "LDMBertConfig":
        known = {f.name for f in fields(cls)}
        return read_config(cls, {key: value for key, value in config.items() if key in known}, {})


class SelfAttention(nn.Module):
    def __init__(self, c: LDMBertConfig):
        super().__init__()
        inner, self.heads = c.encoder_attention_heads * c.head_dim, c.encoder_attention_heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(c.d_model, inner, bias=False) for _ in range(3))
        self.out_proj = nn.Linear(inner, c.d_model)

    def forward(self, x: Tensor) -> Tensor:
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (y(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in projections)
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, c: LDMBertConfig):
        super().__init__()
        self.self_attn, self.self_attn_layer_norm = SelfAttention(c), nn.LayerNorm(c.d_model)
        self.fc1, self.fc2 = nn.Linear(c.d_model, c.encoder_ffn_dim), nn.Linear(c.encoder_ffn_dim, c.d_model)
        self.final_layer_norm = nn.LayerNorm(c.d_model)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.self_attn_layer_norm(x))
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))


class Encoder(nn.Module):
    def __init__(self, c: LDMBertConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocab_size, c.d_model)
        self.embed_positions = nn.Embedding(c.max_position_embeddings, c.d_model)
        self.layers = nn.ModuleList([Layer(c) for _ in range(c.encoder_layers)])
        self.layer_norm = nn.LayerNorm(c.d_model)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed_tokens(input_ids) + self.embed_positions(torch.arange(input_ids.shape[1]))
        for layer in self.layers:
            x = layer(x)
        return self.layer_norm(x)


class LDMBertModel(nn.Module):
    """forward(input_ids i64[B,S]) -> f32[B,S,d_model]. Padding is read like any token."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        c = LDMBertConfig.read(config)
        self.model = Encoder(c)
        self.to_logits = nn.Linear(c.d_model, c.vocab_size)  # in the checkpoint, and of no use here

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model(input_ids)
