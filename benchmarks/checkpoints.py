"""Checkpoints of the exact shapes of published models, with random weights in fp32: what a benchmark needs of them.

python -m benchmarks.checkpoints sd15 FOLDER    Stable Diffusion 1.5: 860 M + 123 M + 84 M parameters, 4 GB
python -m benchmarks.checkpoints sdxl FOLDER    XL: 2,567 M + 123 M + 695 M + 84 M parameters, 14 GB
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from exporters.families.latent import build_text_encoder
from exporters.families.stable_diffusion_xl import build_text_encoder_2
from exporters.models.unet import UNet2DConditionModel
from exporters.models.vae import AutoencoderKL
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
CLASSES = {
    "text_encoder": "CLIPTextModel", "text_encoder_2": "CLIPTextModelWithProjection",
    "unet": "UNet2DConditionModel", "vae": "AutoencoderKL",
}  # fmt: skip
KINDS = {"sd15": (SD15, "StableDiffusionPipeline"), "sdxl": (SDXL, "StableDiffusionXLPipeline")}


def write_random(kind: str, folder: Path) -> Path:
    """Write one and return its folder, which must be new."""
    parts, pipeline = KINDS[kind]
    generator = torch.Generator().manual_seed(0)
    folder.mkdir(parents=True)
    index: dict[str, Any] = {"_class_name": pipeline}
    if kind == "sd15":
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
    for part, (config, build, stem) in parts.items():
        with torch.device("meta"):
            shapes = {name: tensor.shape for name, tensor in build(config).state_dict().items()}
        weights = {name: random(name, shape, generator) for name, shape in shapes.items()}
        (folder / part).mkdir()
        (folder / part / "config.json").write_text(json.dumps(config))
        save_file(weights, folder / part / f"{stem}.safetensors", metadata={"format": "pt"})
        del weights
        index[part] = ["transformers" if stem == "model" else "diffusers", CLASSES[part]]
        if stem == "model":
            tokenizer = part.replace("text_encoder", "tokenizer")
            write_tokenizer(folder / tokenizer, PAD)
            index[tokenizer] = ["transformers", "CLIPTokenizer"]
    (folder / "scheduler").mkdir()
    scheduler = {"_class_name": "PNDMScheduler", "skip_prk_steps": True, **SCHEDULER}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    index["scheduler"] = ["diffusers", "PNDMScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def random(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """Such that values keep their size from layer to layer."""
    if len(shape) == 1:
        return torch.ones(shape) if name.endswith("weight") else torch.zeros(shape)
    return torch.randn(shape, generator=generator) * max(1, shape[1:].numel()) ** -0.5


if __name__ == "__main__":
    write_random(sys.argv[1], Path(sys.argv[2]))
