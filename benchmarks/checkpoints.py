"""Checkpoints of the exact shapes of published models, with random weights: what a benchmark needs of them.

python -m benchmarks.checkpoints sd15 FOLDER    Stable Diffusion 1.5: 860 M + 123 M + 84 M parameters, fp32, 4 GB
python -m benchmarks.checkpoints sdxl FOLDER    XL: 2,567 M + 123 M + 695 M + 84 M parameters, fp32, 14 GB
python -m benchmarks.checkpoints flux FOLDER    Flux.1 dev: 11,901 M + 4,762 M + 123 M + 84 M parameters, bf16, 34 GB
"""

import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import tokenizers
import torch
from safetensors.torch import save_file

from exporters.families.latent import build_text_encoder
from exporters.families.stable_diffusion_xl import build_text_encoder_2
from exporters.models.flux import FluxTransformer2DModel
from exporters.models.t5 import T5EncoderModel
from exporters.models.unet import UNet2DConditionModel
from exporters.models.vae import AutoencoderKL
from exporters.safetensors_writer import Stored, write_header, write_tensors
from exporters.sources.clip_tokenizer import write_tokenizer

Parts = dict[str, tuple[dict[str, Any], Callable[[Any], torch.nn.Module], str]]

PAD = "<|endoftext|>"
WEIGHTS = "diffusion_pytorch_model"
SCHEDULER = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
    "steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False,
}  # fmt: skip
TEXT = {
    "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    "projection_dim": 768, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1,
}  # fmt: skip
TEXT_2 = TEXT | {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
    "hidden_act": "gelu", "projection_dim": 1280,
}  # fmt: skip
VAE = {
    "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 4, "sample_size": 512,
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
    "scaling_factor": 0.18215,
}  # fmt: skip
UNET = {
    "in_channels": 4, "out_channels": 4, "sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}  # fmt: skip
UNET_XL = {
    "in_channels": 4, "out_channels": 4, "sample_size": 128, "cross_attention_dim": 2048,
    "block_out_channels": [320, 640, 1280], "attention_head_dim": [5, 10, 20], "use_linear_projection": True,
    "transformer_layers_per_block": [1, 2, 10],
    "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
    "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
T5_XXL = {
    "vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}  # fmt: skip
FLUX_DEV = {
    "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128,
    "num_attention_heads": 24, "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": True,
}  # fmt: skip
VAE_16 = VAE | {
    "latent_channels": 16, "sample_size": 1024, "scaling_factor": 0.3611, "shift_factor": 0.1159,
    "use_quant_conv": False, "use_post_quant_conv": False,
}  # fmt: skip
FLOW = {"shift": 3.0, "use_dynamic_shifting": True}

SD15: Parts = {
    "text_encoder": (TEXT, build_text_encoder, "model"),
    "unet": (UNET, UNet2DConditionModel, WEIGHTS),
    "vae": (VAE, AutoencoderKL, WEIGHTS),
}
SDXL: Parts = {
    "text_encoder": (TEXT, build_text_encoder, "model"),
    "text_encoder_2": (TEXT_2, build_text_encoder_2, "model"),
    "unet": (UNET_XL, UNet2DConditionModel, WEIGHTS),
    "vae": (VAE | {"scaling_factor": 0.13025, "sample_size": 1024}, AutoencoderKL, WEIGHTS),
}
FLUX: Parts = {
    "text_encoder": (TEXT, build_text_encoder, "model"),
    "text_encoder_2": (T5_XXL, T5EncoderModel, "model"),
    "transformer": (FLUX_DEV, FluxTransformer2DModel, WEIGHTS),
    "vae": (VAE_16, AutoencoderKL, WEIGHTS),
}
PNDM = {"_class_name": "PNDMScheduler", "skip_prk_steps": True, **SCHEDULER}
KINDS = {
    "sd15": (SD15, "StableDiffusionPipeline", PNDM),
    "sdxl": (SDXL, "StableDiffusionXLPipeline", PNDM),
    "flux": (FLUX, "FluxPipeline", {"_class_name": "FlowMatchEulerDiscreteScheduler", **FLOW}),
}
CLASSES: dict[Callable[[Any], torch.nn.Module], str] = {
    build_text_encoder: "CLIPTextModel", build_text_encoder_2: "CLIPTextModelWithProjection",
    T5EncoderModel: "T5EncoderModel", UNet2DConditionModel: "UNet2DConditionModel", AutoencoderKL: "AutoencoderKL",
    FluxTransformer2DModel: "FluxTransformer2DModel",
}  # fmt: skip
IN_BF16 = ("flux",)
SHARDS = {"transformer": 3, "text_encoder_2": 2}  # of Flux
BANK = 4_194_301  # random numbers that bf16 weights repeat: a prime, so that no two rows of a matrix are equal


def write_random(kind: str, folder: Path) -> Path:
    """Write one and return its folder, which must be new."""
    parts, pipeline, scheduler = KINDS[kind]
    generator = torch.Generator().manual_seed(0)
    folder.mkdir(parents=True)
    index: dict[str, Any] = {"_class_name": pipeline}
    if kind == "sd15":
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
    for part, (config, build, stem) in parts.items():
        with torch.device("meta"):
            shapes = {name: tensor.shape for name, tensor in build(config).state_dict().items()}
        (folder / part).mkdir()
        (folder / part / "config.json").write_text(json.dumps(config))
        if kind in IN_BF16:
            write_bf16(shapes, folder / part, stem, SHARDS.get(part, 1), generator)
        else:
            weights = {name: random(name, shape, generator) for name, shape in shapes.items()}
            save_file(weights, folder / part / f"{stem}.safetensors", metadata={"format": "pt"})
            del weights
        index[part] = ["transformers" if stem == "model" else "diffusers", CLASSES[build]]
        if stem == "model":
            tokenizer = part.replace("text_encoder", "tokenizer")
            t5 = build is T5EncoderModel
            (write_t5_tokenizer if t5 else partial(write_tokenizer, pad=PAD))(folder / tokenizer)
            index[tokenizer] = ["transformers", "T5TokenizerFast" if t5 else "CLIPTokenizer"]
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    index["scheduler"] = ["diffusers", scheduler["_class_name"]]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def random(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """Such that values keep their size from layer to layer."""
    if len(shape) == 1:
        return torch.ones(shape) if name.endswith("weight") else torch.zeros(shape)
    return torch.randn(shape, generator=generator) * max(1, shape[1:].numel()) ** -0.5


def write_bf16(
    shapes: Mapping[str, torch.Size], folder: Path, stem: str, shards: int, generator: torch.Generator
) -> None:
    """One file, or shards of about one size with their index, in the names that save_pretrained gives them. A tensor at
    a time."""
    bank = torch.randn(BANK, generator=generator)
    files: list[dict[str, Stored]] = [{} for _ in range(shards)]
    total, end = 2 * sum(shape.numel() for shape in shapes.values()), 0
    for name, shape in shapes.items():
        stored = Stored("BF16", tuple(shape), partial(from_bank, name, shape, bank))
        files[min(shards - 1, end * shards // total)][name] = stored
        end += stored.length
    names = [f"{stem}.safetensors"]
    if shards > 1:
        names = [f"{stem}-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
        where = {tensor: file for file, tensors in zip(names, files, strict=True) for tensor in tensors}
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    for file, tensors in zip(names, files, strict=True):
        write_header(folder / file, tensors)
        write_tensors(folder / file, tensors)


def from_bank(name: str, shape: torch.Size, bank: torch.Tensor) -> memoryview:
    """As `random`, in the bytes of bf16."""
    if len(shape) == 1:
        tensor = torch.ones(shape) if name.endswith("weight") else torch.zeros(shape)
    else:
        scaled = (bank * shape[1:].numel() ** -0.5).bfloat16()
        tensor = scaled.repeat(-(-shape.numel() // BANK))[: shape.numel()]
    return tensor.bfloat16().view(torch.uint8).numpy().data


def write_t5_tokenizer(folder: Path) -> None:
    """A tokenizer.json of letters: a full vocabulary's time and memory are no matter here."""
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *"abcdefghijklmnopqrstuvwxyz"]
    whole = tokenizers.Tokenizer(tokenizers.models.Unigram([(piece, -1.0) for piece in pieces], 2, False))
    whole.pre_tokenizer, whole.decoder = tokenizers.pre_tokenizers.Metaspace(), tokenizers.decoders.Metaspace()
    whole.post_processor = tokenizers.processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    folder.mkdir()
    whole.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"tokenizer_class": "T5TokenizerFast"}))


if __name__ == "__main__":
    write_random(sys.argv[1], Path(sys.argv[2]))
