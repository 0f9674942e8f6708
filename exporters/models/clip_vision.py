"""CLIP's vision transformer (Radford et al. 2021, arXiv:2103.00020; Dosovitskiy et al. 2020, arXiv:2010.11929), and
what Stable Diffusion has on top of it, an encoder and the safety checker, with transformers' and diffusers' config keys
and tensor names.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffrt.configs import read_config
from diffrt.errors import CheckpointError


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"quick_gelu": quick_gelu, "gelu": F.gelu}


@dataclass(frozen=True)
class VisionConfig:
    """What its numbers depend on; transformers has more keys."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 32
    hidden_act: Literal["quick_gelu", "gelu"] = "quick_gelu"
    layer_norm_eps: float = 1e-5

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> "VisionConfig":
        known = {f.name for f in fields(cls)}
        return read_config(cls, {key: value for key, value in config.items() if key in known}, {})


class Embeddings(nn.Module):
    def __init__(self, c: VisionConfig):
        super().__init__()
        self.class_embedding = nn.Parameter(torch.empty(c.hidden_size))
        self.patch_embedding = nn.Conv2d(c.num_channels, c.hidden_size, c.patch_size, stride=c.patch_size, bias=False)
        self.position_embedding = nn.Embedding((c.image_size // c.patch_size) ** 2 + 1, c.hidden_size)

    def forward(self, pixels: Tensor) -> Tensor:  # [B,3,S,S] -> [B,1+N,D]
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(patches.shape[0], 1, -1)
        return torch.cat([first, patches], dim=1) + self.position_embedding.weight


class SelfAttention(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B,heads,L,D/heads]
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, c: VisionConfig):
        super().__init__()
        self.fc1 = nn.Linear(c.hidden_size, c.intermediate_size)
        self.fc2 = nn.Linear(c.intermediate_size, c.hidden_size)
        self.act = ACTIVATIONS[c.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Layer(nn.Module):
    def __init__(self, c: VisionConfig):
        super().__init__()
        self.self_attn = SelfAttention(c.hidden_size, c.num_attention_heads)
        self.layer_norm1 = nn.LayerNorm(c.hidden_size, c.layer_norm_eps)
        self.mlp = FeedForward(c)
        self.layer_norm2 = nn.LayerNorm(c.hidden_size, c.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Layers(nn.Module):
    def __init__(self, c: VisionConfig):
        super().__init__()
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.num_hidden_layers))


class CLIPVisionModel(nn.Module):
    """Pictures [B,3,S,S] -> what stands at the class token, normalised: [B,D]."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        c = VisionConfig.read(config)
        self.embeddings = Embeddings(c)
        self.pre_layrnorm = nn.LayerNorm(c.hidden_size, c.layer_norm_eps)  # spelled so in every checkpoint
        self.encoder = Layers(c)
        self.post_layernorm = nn.LayerNorm(c.hidden_size, c.layer_norm_eps)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.pre_layrnorm(self.embeddings(pixels))
        for layer in self.encoder.layers:
            x = layer(x)
        return self.post_layernorm(x[:, 0])


class CLIPVisionModelWithProjection(nn.Module):
    """Pictures [B,3,S,S] -> what is in them, among the texts of the same CLIP: [B,P]."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        self.vision_model = CLIPVisionModel(config)
        width = config.get("projection_dim", 512)
        self.visual_projection = nn.Linear(VisionConfig.read(config).hidden_size, width, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.visual_projection(self.vision_model(pixels))


CONCEPTS, SPECIAL = 17, 3


class StableDiffusionSafetyChecker(nn.Module):
    """Pictures [B,3,S,S] -> how far each is beyond the threshold of 3 special concepts and of 17 others: cosines of
    its embedding with theirs, less the thresholds. [B,3], [B,17]"""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        vision = config.get("vision_config")
        if not isinstance(vision, Mapping):
            raise CheckpointError("config key 'vision_config' is missing: the checker's pictures go through it")
        width = config.get("projection_dim", 512)
        self.vision_model = CLIPVisionModel(vision)
        self.visual_projection = nn.Linear(VisionConfig.read(vision).hidden_size, width, bias=False)
        self.concept_embeds = nn.Parameter(torch.empty(CONCEPTS, width))
        self.special_care_embeds = nn.Parameter(torch.empty(SPECIAL, width))
        self.concept_embeds_weights = nn.Parameter(torch.empty(CONCEPTS))
        self.special_care_embeds_weights = nn.Parameter(torch.empty(SPECIAL))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        seen = F.normalize(self.visual_projection(self.vision_model(pixels)))
        special = seen @ F.normalize(self.special_care_embeds).T - self.special_care_embeds_weights
        return special, seen @ F.normalize(self.concept_embeds).T - self.concept_embeds_weights
