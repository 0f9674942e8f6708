"""The configs of Stable Diffusion's networks: diffusers' keys as frozen records, which the PyTorch modules that are
traced and the JAX functions are both built from. A key or a value that is not implemented is a CheckpointError.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from diffrt.configs import per_block, read_config
from diffrt.errors import CheckpointError

DOWN = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}  # block type -> has cross-attention
UP = {"CrossAttnUpBlock2D": True, "UpBlock2D": False}


@dataclass(frozen=True)
class UNetConfig:
    in_channels: int = 4
    out_channels: int = 4
    sample_size: int | tuple[int, int] | None = None
    flip_sin_to_cos: bool = True
    freq_shift: float = 0
    down_block_types: tuple[str, ...] = (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D")
    up_block_types: tuple[str, ...] = ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3)
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int | tuple[int, ...] = 2
    downsample_padding: Literal[0, 1] = 1
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    cross_attention_dim: int = 1280
    attention_head_dim: int | tuple[int, ...] = 8  # a number of heads, by a slip that checkpoints froze
    num_attention_heads: int | tuple[int, ...] | None = None
    use_linear_projection: bool = False
    upcast_attention: bool = False
    transformer_layers_per_block: int | tuple[int, ...] = 1
    addition_embed_type: Literal["text_time"] | None = None  # told of the whole prompt, and of sizes and crops
    addition_time_embed_dim: int | None = None
    projection_class_embeddings_input_dim: int | None = None
    num_class_embeds: int | None = None  # told of one of so many classes
    only_cross_attention: bool | tuple[bool, ...] | None = False  # by block: pixels do not attend to one another
    time_cond_proj_dim: int | None = None  # told how much guidance it is to act as if it had

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> "UNetConfig":
        return read_config(cls, config, UNET_ONLY)

    def __post_init__(self) -> None:
        if self.addition_embed_type and not (
            self.addition_time_embed_dim and self.projection_class_embeddings_input_dim
        ):
            raise CheckpointError(
                "addition_embed_type needs addition_time_embed_dim and projection_class_embeddings_input_dim: give both"
            )
        down, up, heads = self.down, self.up, self.heads
        for index, width in enumerate(self.block_out_channels):
            uses_heads = down[index] or up[self.blocks - 1 - index] or index == self.blocks - 1
            if width % self.norm_num_groups or (uses_heads and width % heads[index]):
                raise CheckpointError(
                    f"block_out_channels[{index}] = {width} is not a multiple of norm_num_groups = "
                    f"{self.norm_num_groups} and of {heads[index]} attention heads"
                )

    @property
    def blocks(self) -> int:
        return len(self.block_out_channels)

    @property
    def heads(self) -> tuple[int, ...]:
        """Attention heads of each block."""
        return per_block(self.num_attention_heads or self.attention_head_dim, self.blocks, "attention_head_dim")

    @property
    def blind(self) -> tuple[bool, ...]:
        """Whether the pixels of each block, and last of the middle, do not attend to one another."""
        only = self.only_cross_attention or (False,) * self.blocks
        if only is True or len(only) != self.blocks:
            raise CheckpointError(f"config key 'only_cross_attention' is {only!r}; allowed: {self.blocks} values")
        return (*only, False)

    @property
    def transformers(self) -> tuple[int, ...]:
        """Transformer blocks of each block's attentions."""
        return per_block(self.transformer_layers_per_block, self.blocks, "transformer_layers_per_block")

    @property
    def layers(self) -> tuple[int, ...]:
        """Residual blocks of each block on the way down; on the way up there is one more."""
        return per_block(self.layers_per_block, self.blocks, "layers_per_block")

    @property
    def down(self) -> list[bool]:
        """Whether each block on the way down has cross-attention."""
        return self._kinds("down_block_types", DOWN)

    @property
    def up(self) -> list[bool]:
        return self._kinds("up_block_types", UP)

    def _kinds(self, key: str, known: Mapping[str, bool]) -> list[bool]:
        kinds = getattr(self, key)
        if len(kinds) != self.blocks or any(kind not in known for kind in kinds):
            raise CheckpointError(f"config key {key!r} is {list(kinds)}; allowed: {self.blocks} of {', '.join(known)}")
        return [known[kind] for kind in kinds]


# Keys of diffusers' UNet2DConditionModel implemented for these values alone.
UNET_ONLY: dict[str, tuple] = {
    "center_input_sample": (False,), "mid_block_type": ("UNetMidBlock2DCrossAttn",), "act_fn": ("silu",),
    "mid_block_scale_factor": (1,), "dropout": (0,),
    "reverse_transformer_layers_per_block": (None,),
    "encoder_hid_dim": (None,), "encoder_hid_dim_type": (None,), "dual_cross_attention": (False,),
    "class_embed_type": (None,),
    "resnet_time_scale_shift": ("default",), "resnet_skip_time_act": (False,),
    "resnet_out_scale_factor": (1,), "time_embedding_type": ("positional",), "time_embedding_dim": (None,),
    "time_embedding_act_fn": (None,), "timestep_post_act": (None,), "conv_in_kernel": (3,), "conv_out_kernel": (3,),
    "attention_type": ("default",), "class_embeddings_concat": (False,),
    "mid_block_only_cross_attention": (None, False), "cross_attention_norm": (None,),
    "addition_embed_type_num_heads": (64,),
}  # fmt: skip


@dataclass(frozen=True)
class VAEConfig:
    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",)
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    latent_channels: int = 4
    norm_num_groups: int = 32
    sample_size: int | tuple[int, int] = 32
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    force_upcast: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> "VAEConfig":
        return read_config(cls, config, VAE_ONLY)

    def __post_init__(self) -> None:
        for key, kind in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
            if getattr(self, key) != (kind,) * len(self.block_out_channels):
                raise CheckpointError(
                    f"config key {key!r} is {list(getattr(self, key))}; "
                    f"allowed: {len(self.block_out_channels)} of {kind}"
                )
        if any(width % self.norm_num_groups for width in self.block_out_channels):
            raise CheckpointError(
                f"block_out_channels = {list(self.block_out_channels)} are not multiples of norm_num_groups = "
                f"{self.norm_num_groups}"
            )


# Keys of diffusers' AutoencoderKL implemented for these values alone.
VAE_ONLY: dict[str, tuple] = {
    "act_fn": ("silu",), "latents_mean": (None,), "latents_std": (None,), "mid_block_add_attention": (True,),
}  # fmt: skip


@dataclass(frozen=True)
class TextConfig:
    """Of transformers' CLIPTextModel, what its numbers depend on; it has many more keys."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int = 77
    hidden_act: Literal["quick_gelu", "gelu"] = "quick_gelu"
    layer_norm_eps: float = 1e-5

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> "TextConfig":
        known = {f.name for f in fields(cls)}
        return read_config(cls, {key: value for key, value in config.items() if key in known}, {})

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise CheckpointError(
                f"hidden_size = {self.hidden_size} is not a multiple of {self.num_attention_heads} attention heads"
            )
