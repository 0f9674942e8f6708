"""Attention over the tokens of picture and words together, each with projections of its own (Esser et al. 2024,
arXiv:2403.03206, figure 2), as SD3Transformer2DModel and FluxTransformer2DModel have it. Parameter names are those of
diffusers.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import TimestepEmbedding, sinusoidal
from .transformer import FeedForward, RMSNorm, modulated

WAVES = 256  # of the time's sines and cosines
EPS = 1e-6
Turn = Callable[[Tensor], Tensor]  # of queries and keys [B,heads,L,D], by their places


class Projection(nn.Module):
    """Of a whole prompt: linear, SiLU, linear."""

    def __init__(self, width: int, dim: int):
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(width, dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


class TimeAndText(nn.Module):
    """Time, the whole prompt and, where it is told, the guidance as one vector."""

    def __init__(self, width: int, dim: int, guided: bool = False):
        super().__init__()
        self.timestep_embedder, self.text_embedder = TimestepEmbedding(WAVES, dim), Projection(width, dim)
        if guided:
            self.guidance_embedder = TimestepEmbedding(WAVES, dim)

    def forward(self, timestep: Tensor, pooled: Tensor, guidance: Tensor | None = None) -> Tensor:
        told = self.timestep_embedder(sinusoidal(timestep, WAVES, True, 0).to(pooled.dtype))
        if guidance is not None:
            told = told + self.guidance_embedder(sinusoidal(guidance, WAVES, True, 0).to(pooled.dtype))
        return told + self.text_embedder(pooled)


class Told(nn.Module):
    """What a vector makes of the shifts, scales and gates of a block: ``parts`` of them, each [B,D]."""

    def __init__(self, dim: int, parts: int):
        super().__init__()
        self.linear, self.parts = nn.Linear(dim, parts * dim), parts

    def forward(self, told: Tensor) -> tuple[Tensor, ...]:
        return self.linear(F.silu(told)).chunk(self.parts, dim=1)


class JointAttention(nn.Module):
    """Over a picture's tokens, and over those of words beside them where it is made for them."""

    def __init__(self, dim: int, heads: int, norms: bool, words: bool = True, last: bool = False, out: bool = True):
        super().__init__()
        self.heads, self.words, self.last, self.norms = heads, words, last, norms
        for name in ("to_q", "to_k", "to_v", *(("add_q_proj", "add_k_proj", "add_v_proj") if words else ())):
            setattr(self, name, nn.Linear(dim, dim))
        if norms:
            for name in ("norm_q", "norm_k", *(("norm_added_q", "norm_added_k") if words else ())):
                setattr(self, name, RMSNorm(dim // heads, EPS))
        if out:
            self.to_out = nn.ModuleList([nn.Linear(dim, dim)])
        if words and not last:
            self.to_add_out = nn.Linear(dim, dim)

    def project(self, x: Tensor, names: tuple[str, str, str], norms: tuple[str, str]) -> list[Tensor]:
        """Queries, keys and values [B,heads,L,D]."""
        qkv = [getattr(self, name)(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for name in names]
        if self.norms:
            qkv[:2] = [getattr(self, name)(each) for name, each in zip(norms, qkv, strict=False)]
        return qkv

    def over_all(self, x: Tensor, turn: Turn | None = None) -> Tensor:
        """One sequence, [B,L,D], with nothing after attention."""
        q, k, v = self.project(x, ("to_q", "to_k", "to_v"), ("norm_q", "norm_k"))
        return attend(q, k, v, turn)

    def forward(self, x: Tensor, words: Tensor, first: bool, turn: Turn | None = None) -> tuple[Tensor, Tensor]:
        """``first``: words stand before the picture in the sequence."""
        picture = self.project(x, ("to_q", "to_k", "to_v"), ("norm_q", "norm_k"))
        said = self.project(words, ("add_q_proj", "add_k_proj", "add_v_proj"), ("norm_added_q", "norm_added_k"))
        pairs = zip(*((said, picture) if first else (picture, said)), strict=True)
        q, k, v = (torch.cat(pair, dim=2) for pair in pairs)
        y = attend(q, k, v, turn)
        lengths = [words.shape[1], x.shape[1]] if first else [x.shape[1], words.shape[1]]
        parts = list(y.split(lengths, dim=1))
        heard, seen = parts if first else reversed(parts)
        return self.to_out[0](seen), heard if self.last else self.to_add_out(heard)


def attend(q: Tensor, k: Tensor, v: Tensor, turn: Turn | None) -> Tensor:
    if turn is not None:
        q, k = turn(q), turn(k)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class JointBlock(nn.Module):
    """Picture and words, each with norms and a feed-forward of its own. ``dual``: the picture attends to itself once
    more; ``last``: no words come out."""

    def __init__(self, dim: int, heads: int, norms: bool, first: bool, dual: bool = False, last: bool = False):
        super().__init__()
        self.norm1, self.norm1_context = Told(dim, 9 if dual else 6), Told(dim, 2 if last else 6)
        self.attn = JointAttention(dim, heads, norms, last=last)
        if dual:
            self.attn2 = JointAttention(dim, heads, norms, words=False)
        self.ff = FeedForward(dim)
        if not last:
            self.ff_context = FeedForward(dim)
        self.first, self.dual, self.last = first, dual, last

    def forward(self, x: Tensor, words: Tensor, told: Tensor, turn: Turn | None = None) -> tuple[Tensor, Tensor]:
        shift, scale, gate, shift_2, scale_2, gate_2, *more = self.norm1(told)
        if self.last:
            scale_w, shift_w = self.norm1_context(told)
            gate_w = shift_w2 = scale_w2 = gate_w2 = shift_w
        else:
            shift_w, scale_w, gate_w, shift_w2, scale_w2, gate_w2 = self.norm1_context(told)
        y, heard = self.attn(modulated(x, shift, scale), modulated(words, shift_w, scale_w), self.first, turn)
        again = self.attn2.to_out[0](self.attn2.over_all(modulated(x, *more[:2]))) if self.dual else None
        x = x + gate.unsqueeze(1) * y
        if again is not None:
            x = x + more[2].unsqueeze(1) * again
        x = x + gate_2.unsqueeze(1) * self.ff(modulated(x, shift_2, scale_2))
        if self.last:
            return x, words
        words = words + gate_w.unsqueeze(1) * heard
        return x, words + gate_w2.unsqueeze(1) * self.ff_context(modulated(words, shift_w2, scale_w2))


class LastNorm(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.linear = nn.Linear(dim, 2 * dim)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        scale, shift = self.linear(F.silu(told)).chunk(2, dim=1)
        return modulated(x, shift, scale)
