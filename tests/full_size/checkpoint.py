"""A checkpoint of Stable Diffusion 1.5's exact shapes with random weights: 860 M + 123 M + 84 M parameters, fp32.

python -m tests.full_size.checkpoint FOLDER
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from exporters.families.stable_diffusion import STABLE_DIFFUSION, build_text_encoder
from exporters.models.unet import UNet2DConditionModel
from exporters.models.vae import AutoencoderKL

from ..checkpoints import SCHEDULER, write_tokenizer

TEXT = {
    "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    "projection_dim": 768, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1,
}  # fmt: skip
UNET = {
    "sample_size": 64,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
}
UNET |= {
    "in_channels": 4, "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}  # fmt: skip
VAE = {
    "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 4, "sample_size": 512,
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
    "scaling_factor": 0.18215,
}  # fmt: skip
PARTS = {
    "text_encoder": (TEXT, build_text_encoder, "model"),
    "unet": (UNET, UNet2DConditionModel, "diffusion_pytorch_model"),
    "vae": (VAE, AutoencoderKL, "diffusion_pytorch_model"),
}


def write_full_size(folder: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    folder.mkdir(parents=True)
    for part, (config, build, stem) in PARTS.items():
        with torch.device("meta"):
            shapes = {name: tensor.shape for name, tensor in build(config).state_dict().items()}
        weights = {}
        for name, shape in shapes.items():
            fan_in = max(1, shape[1:].numel())
            if len(shape) == 1:
                weights[name] = torch.ones(shape) if name.endswith("weight") else torch.zeros(shape)
            else:
                weights[name] = torch.randn(shape, generator=generator) * fan_in**-0.5
        (folder / part).mkdir()
        (folder / part / "config.json").write_text(json.dumps(config))
        save_file(weights, folder / part / f"{stem}.safetensors", metadata={"format": "pt"})
        del weights
    write_tokenizer(folder / "tokenizer", "<|endoftext|>")
    (folder / "scheduler").mkdir()
    scheduler = {"_class_name": "PNDMScheduler", "skip_prk_steps": True, **SCHEDULER}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    index: dict = {"_class_name": "StableDiffusionPipeline", "safety_checker": [None, None]}
    index |= {part: ["-", classes[0]] for part, classes in STABLE_DIFFUSION.parts.items()}
    index |= {"scheduler": ["diffusers", "PNDMScheduler"], "tokenizer": ["transformers", "CLIPTokenizer"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


if __name__ == "__main__":
    write_full_size(Path(sys.argv[1]))
