"""Pipelines on the tiny checkpoints, made once. Compiling is most of what these tests take: all pictures of a kind have
one size, and code is not optimized."""

import json
import os

os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false".strip()
)

import numpy as np
import pytest
import torch

import diffrt
from tests.checkpoints import SCHEDULER, write_tokenizer
from tests.conftest import made

KINDS = {"sd1": "2022", "sd2": "2026", "inpaint": "2026"}
HEIGHT, WIDTH = 64, 96


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """(checkpoint, bundle) of a kind."""

    def of(kind):
        folder = made(kind, KINDS[kind], tmp_path_factory)
        return folder / "checkpoint", folder / "bundle"

    return of


@pytest.fixture(scope="session")
def pipes(folders):
    """(JAX's pipeline, ONNX Runtime's) of a kind; JAX's from the plain checkpoint."""
    from diffrt import flax

    kept = {}

    def of(kind):
        if kind not in kept:
            checkpoint, bundle = folders(kind)
            kept[kind] = flax.load(checkpoint, data=1), diffrt.load(bundle)
        return kept[kind]

    return of


@pytest.fixture(scope="session")
def mini(tmp_path_factory):
    """Checkpoints that compile in seconds: of 2 latent pixels each way per picture's pixel, a UNet of four channels or
    of nine."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    def write(channels):
        torch.manual_seed(channels)
        folder = tmp_path_factory.mktemp("mini") / f"unet-{channels}"
        words = write_tokenizer(folder / "tokenizer", "<|endoftext|>")
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=words, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
            )
        )
        unet = UNet2DConditionModel(
            in_channels=channels, sample_size=8, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=16, attention_head_dim=4,
        )  # fmt: skip
        vae = AutoencoderKL(
            block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1, sample_size=16,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        )  # fmt: skip
        for part, module in (("text_encoder", text), ("unet", unet), ("vae", vae)):
            module.save_pretrained(folder / part)
        (folder / "scheduler").mkdir()
        scheduler = SCHEDULER | {"_class_name": "PNDMScheduler", "skip_prk_steps": True}
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
        index = {"text_encoder": "CLIPTextModel", "unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
        kind = "StableDiffusionPipeline" if channels == 4 else "StableDiffusionInpaintPipeline"
        record = {"_class_name": kind} | {part: ["", name] for part, name in index.items()}
        (folder / "model_index.json").write_text(json.dumps(record))
        return folder

    return {channels: write(channels) for channels in (4, 9)}


@pytest.fixture(scope="session")
def latents():
    return np.random.default_rng(0).standard_normal((1, 4, HEIGHT // 8, WIDTH // 8), dtype=np.float32)


@pytest.fixture(scope="session")
def photo():
    """[H,W,3] u8, and a mask of it."""
    image = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[16:48, 32:80] = 255
    return image, mask
