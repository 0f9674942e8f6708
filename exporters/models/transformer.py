"""What the diffusion transformers share (Peebles & Xie 2022, arXiv:2212.09748, section 3.2): patches, positions, and
layers whose norms are shifted and scaled by what the model is told. Parameter names are those of diffusers.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MASKED = -10000.0  # fp16 holds it


class PatchEmbed(nn.Module):
    """Patches as tokens: [B,C,h,w] -> [B,h/p*w/p,dim]. ``most``: the positions of so many each way are learnt."""

    def __init__(self, channels: int, dim: int, patch: int, most: int | None = None):
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch, stride=patch)
        if most is not None:
            self.register_buffer("pos_embed", torch.zeros(1, most * most, dim))
            self.most = most

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)

    def middle(self, height: int, width: int) -> Tensor:
        """The learnt positions of the patches in the middle. [1,height*width,dim]"""
        top, left = (self.most - height) // 2, (self.most - width) // 2
        grid = self.pos_embed.unflatten(1, (self.most, self.most))
        return grid[:, top : top + height, left : left + width].flatten(1, 2)


def positions(height: int, width: int, dim: int, base: int, scale: float) -> Tensor:
    """Sines and cosines of each patch's column, then of its row, on a grid that is ``base`` * scale wide whatever the
    number of patches. -> [1,height*width,dim]"""
    rows = torch.arange(height, dtype=torch.float32) / (height / base) / scale
    columns = torch.arange(width, dtype=torch.float32) / (width / base) / scale
    rate = torch.exp(-math.log(10000.0) * torch.arange(dim // 4, dtype=torch.float32) / (dim // 4))
    angles = (places.unsqueeze(1) * rate for places in (columns, rows))
    waves = [torch.cat([angle.sin(), angle.cos()], dim=-1) for angle in angles]
    across = waves[0].unsqueeze(0).expand(height, -1, -1)
    down = waves[1].unsqueeze(1).expand(-1, width, -1)
    return torch.cat([across, down], dim=-1).flatten(0, 1).unsqueeze(0)


def masking(kept: Tensor, dtype: torch.dtype) -> Tensor:
    """What logits get added so that only some of the tokens are attended to: bool[B,S] -> [B,1,1,S]. It is finite:
    where none is, all are."""
    return (1 - kept.to(dtype)).unsqueeze(1).unsqueeze(1) * MASKED


def unpatched(x: Tensor, height: int, width: int, patch: int) -> Tensor:
    """[B,height*width,p*p*C] -> [B,C,height*p,width*p]"""
    x = x.unflatten(2, (patch, patch, -1)).unflatten(1, (height, width))
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


class RMSNorm(nn.Module):
    """Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x: Tensor) -> Tensor:
        size = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + self.eps)
        return (x * size).to(x.dtype) * self.weight


class FeedForward(nn.Module):
    """Two linear layers with a GELU in its tanh form."""

    def __init__(self, dim: int):
        super().__init__()
        first = nn.Module()
        first.proj = nn.Linear(dim, 4 * dim)
        self.net = nn.ModuleList([first, nn.Identity(), nn.Linear(4 * dim, dim)])

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](F.gelu(self.net[0].proj(x), approximate="tanh"))


def normed(x: Tensor, eps: float = 1e-6) -> Tensor:
    """Layer norm without parameters."""
    return F.layer_norm(x, x.shape[-1:], eps=eps)


def modulated(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """[B,L,D] normed, then moved as [B,D] say."""
    return normed(x, eps) * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)
