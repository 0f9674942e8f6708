"""Tiny random Stable Diffusion checkpoints, written by diffusers and transformers themselves.

``sd1`` and ``sd2`` cover what the two generations differ in (1x1 convolutions or linear projections, one or a list of
head counts, epsilon or v-prediction, pad token), ``inpaint`` is a UNet of nine channels; ``form`` is the folder
layout: "2026" as diffusers 0.42 and transformers 5 write it, "2022" as the world's Stable Diffusion folders are
(text_model. prefix, vocab.json and merges.txt, the autoencoder's old attention names).
"""

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    PNDMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

SCHEDULER = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
    "steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False,
}  # fmt: skip

UNETS = {
    "sd1": {
        "sample_size": 8, "block_out_channels": (32, 48, 64), "norm_num_groups": 8, "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 32, "attention_head_dim": 4,
    },
    "sd2": {
        "sample_size": 8, "block_out_channels": (40, 72), "norm_num_groups": 4, "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 32, "attention_head_dim": [5, 9], "use_linear_projection": True,
        "upcast_attention": True,
    },
    "inpaint": {
        "sample_size": 8, "in_channels": 9, "block_out_channels": (16, 32), "norm_num_groups": 4, "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 32, "attention_head_dim": 4,
    },
}  # fmt: skip

VAE = {
    "block_out_channels": (16, 24, 32, 32), "norm_num_groups": 8, "latent_channels": 4, "sample_size": 64,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    "scaling_factor": 0.18215,
}  # fmt: skip

OLD_NAMES = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}


def write_tokenizer(folder: Path, pad: str) -> int:
    """A byte-level BPE with a few merges, in CLIP's vocab.json and merges.txt. Returns the size of its vocabulary."""
    folder.mkdir(parents=True)
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in visible] + [chr(256 + i) for i in range(256 - len(visible))]
    merges = [
        ("a", "p"),
        ("ap", "p"),
        ("l", "e</w>"),
        ("app", "le</w>"),
        ("r", "e"),
        ("re", "d</w>"),
        ("t", "h"),
    ]
    words = letters + [c + "</w>" for c in letters] + [a + b for a, b in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in merges) + "\n")
    specials = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    (folder / "special_tokens_map.json").write_text(json.dumps({**specials, "pad_token": pad}))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {**specials, "pad_token": pad, "model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}
            | {"do_lower_case": True, "errors": "replace", "add_prefix_space": False}
        )
    )
    return len(words)


def write_checkpoint(folder: Path, kind: str = "sd1", form: str = "2022", seed: int = 0) -> Path:
    """Write one checkpoint and return its folder."""
    torch.manual_seed(seed)
    v_prediction = kind == "sd2"
    old = folder.with_name(folder.name + "-tokenizer")
    vocabulary = write_tokenizer(old, "!" if v_prediction else "<|endoftext|>")
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
            hidden_act="gelu" if v_prediction else "quick_gelu", projection_dim=32, eos_token_id=2,
            bos_token_id=vocabulary - 2, pad_token_id=1,
        )
    )  # fmt: skip
    for parameter in text.parameters():  # transformers' initialisation is near zero: a test could not see a mistake
        parameter.data += torch.randn_like(parameter) * 0.1
    scheduler = (DDIMScheduler if v_prediction else PNDMScheduler).from_config(
        SCHEDULER
        | {"prediction_type": "v_prediction" if v_prediction else "epsilon"}
        | ({} if v_prediction else {"skip_prk_steps": True})
    )
    pipeline = StableDiffusionInpaintPipeline if kind == "inpaint" else StableDiffusionPipeline
    pipe = pipeline(
        vae=AutoencoderKL(**VAE).eval(),
        text_encoder=text.eval(),
        tokenizer=CLIPTokenizer.from_pretrained(old),
        unet=UNet2DConditionModel(**UNETS[kind]).eval(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    if form == "2022":
        rename(
            folder / "text_encoder" / "model.safetensors",
            lambda n: f"text_model.{n.removeprefix('text_model.')}",
        )
        rename(folder / "vae" / "diffusion_pytorch_model.safetensors", old_attention_name)
        for file in (folder / "tokenizer").iterdir():
            file.unlink()
        for file in old.iterdir():
            file.rename(folder / "tokenizer" / file.name)
    return folder


def old_attention_name(name: str) -> str:
    for new, past in OLD_NAMES.items():
        if ".attentions." in name:
            name = name.replace(new, past)
    return name


def rename(file: Path, change) -> None:
    save_file({change(k): v for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
