"""The configs that a single file does not have, read off the shapes of its tensors.

What shapes do not tell is as in every Stable Diffusion: 32 groups in norms, heads of 64 channels (in Stable Diffusion 1
UNets: 8 heads), the noise schedule.
"""

from collections.abc import Mapping
from typing import Any

from diffrt.errors import CheckpointError

from ..safetensors_writer import Stored

Tensors = Mapping[str, Stored]
Json = dict[str, Any]

SCHEDULE: Json = {
    "num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
    "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, "trained_betas": None,
}  # fmt: skip
PLAIN, INPAINT = "StableDiffusionPipeline", "StableDiffusionInpaintPipeline"
EDIT = "StableDiffusionInstructPix2PixPipeline"


def shape(tensors: Tensors, name: str, axes: int) -> tuple[int, ...]:
    """The shape of a tensor that must be there, of at least so many axes."""
    if name not in tensors:
        raise CheckpointError(f"tensor {name!r} is missing")
    if len(tensors[name].shape) < axes:
        raise CheckpointError(f"tensor {name!r} has shape {list(tensors[name].shape)}; {axes} axes are needed")
    return tensors[name].shape


def count(tensors: Tensors, prefix: str) -> int:
    """How many different words follow a prefix in the tensors' names."""
    return len({n.removeprefix(prefix).partition(".")[0] for n in tensors if n.startswith(prefix)})


def unet_config(tensors: Tensors) -> Json:
    """From the names and shapes in the file; the same number of layers in all blocks."""
    layers = 1
    while f"input_blocks.{layers + 1}.0.in_layers.2.weight" in tensors:
        layers += 1
    blocks = 1 + sum(n.startswith("input_blocks.") and n.endswith(".0.op.weight") for n in tensors)
    first = [1 + (layers + 1) * i for i in range(blocks)]  # the number of each block's first layer
    widths = [shape(tensors, f"input_blocks.{n}.0.in_layers.2.weight", 1)[0] for n in first]
    attends = [f"input_blocks.{n}.1.proj_in.weight" in tensors for n in first]
    if not any(attends):
        raise CheckpointError("its UNet has no cross-attention: there is no input_blocks.1.1.proj_in.weight")
    n = first[attends.index(True)]
    linear = len(shape(tensors, f"input_blocks.{n}.1.proj_in.weight", 2)) == 2
    return {
        "_class_name": "UNet2DConditionModel",
        "in_channels": shape(tensors, "input_blocks.0.0.weight", 4)[1],
        "out_channels": shape(tensors, "out.2.weight", 4)[0],
        "block_out_channels": widths,
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        "layers_per_block": layers,
        "cross_attention_dim": shape(tensors, f"input_blocks.{n}.1.transformer_blocks.0.attn2.to_k.weight", 2)[1],
        "attention_head_dim": [max(1, w // 64) for w in widths] if linear else 8,
        "use_linear_projection": linear,
        "upcast_attention": linear,  # in fp16, Stable Diffusion 2.1 overflows without
    }


def vae_config(tensors: Tensors) -> Json:
    blocks = count(tensors, "encoder.down.")
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": shape(tensors, "encoder.conv_in.weight", 4)[1],
        "out_channels": shape(tensors, "decoder.conv_out.weight", 4)[0],
        "latent_channels": shape(tensors, "decoder.conv_in.weight", 4)[1],
        "block_out_channels": [shape(tensors, f"encoder.down.{i}.block.0.conv1.weight", 1)[0] for i in range(blocks)],
        "down_block_types": ["DownEncoderBlock2D"] * blocks,
        "up_block_types": ["UpDecoderBlock2D"] * blocks,
        "layers_per_block": count(tensors, "encoder.down.0.block."),
        "scaling_factor": 0.18215,
    }


def text_config(tensors: Tensors, activation: str) -> Json:
    """From diffusers' names, which two namings were brought to."""
    words, width = shape(tensors, "text_model.embeddings.token_embedding.weight", 2)[:2]
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": words,
        "hidden_size": width,
        "projection_dim": width,
        "intermediate_size": shape(tensors, "text_model.encoder.layers.0.mlp.fc1.weight", 2)[0],
        "num_hidden_layers": count(tensors, "text_model.encoder.layers."),
        "num_attention_heads": max(1, width // 64),
        "max_position_embeddings": shape(tensors, "text_model.embeddings.position_embedding.weight", 2)[0],
        "hidden_act": activation,
        "layer_norm_eps": 1e-5,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }


def scheduler_config(prediction_type: str) -> Json:
    if prediction_type == "epsilon":
        return {"_class_name": "PNDMScheduler", **SCHEDULE, "skip_prk_steps": True, "prediction_type": "epsilon"}
    return {"_class_name": "DDIMScheduler", **SCHEDULE, "prediction_type": prediction_type}


def pipeline_class(unet: Json, vae: Json) -> str:
    """By what the UNet is told beside the latents: nothing, a picture's, or a picture's and a mask."""
    channels = vae["latent_channels"]
    more = unet["in_channels"] - channels
    return {0: PLAIN, channels: EDIT}.get(more, INPAINT)


def model_index(pipeline: str, scheduler: str) -> Json:
    return {
        "_class_name": pipeline,
        "_diffusers_version": "0.42.1",  # whose layout this is; diffusers does not load a folder without
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", scheduler],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
