"""Train the text encoder and the UNet together, from scratch, on cached latents.

    python train_unet.py --minutes 50       # resumes from work/unet.pt; stop it at any time

Needs work/emoji/vae and work/emoji/tokenizer. Latent diffusion (Rombach et al. 2022) with v-prediction (Salimans & Ho
2022, section 4) and the min-SNR weight (Hang et al. 2023): v = alpha*eps - sigma*x0, weight min(snr, 5) / (snr + 1).
Every few minutes the averaged weights are written to work/emoji, whole and loadable by diffusers.
"""

from __future__ import annotations

import argparse
import json
import math
import time

import numpy as np
import torch
from common import OUT, WORK, Average, Log, autocast, device, save_atomic, write_model
from data import Picture, caption, load, on_white
from muon import optimizers
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from train_vae import pictures, to_tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from exporters.models.unet import UNet2DConditionModel
from exporters.models.vae import AutoencoderKL

UNET = {
    "_class_name": "UNet2DConditionModel", "in_channels": 4, "out_channels": 4, "sample_size": 16,
    "cross_attention_dim": 160,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [128, 160], "layers_per_block": 1, "norm_num_groups": 16, "attention_head_dim": 4,
}  # fmt: skip
TEXT = {
    "hidden_size": 160, "intermediate_size": 640, "num_hidden_layers": 4, "num_attention_heads": 4,
    "projection_dim": 160,
    "hidden_act": "quick_gelu", "max_position_embeddings": 32, "vocab_size": 2048,
    "bos_token_id": 2046, "eos_token_id": 2047, "pad_token_id": 2047,
}  # fmt: skip
SCHEDULER = {
    "_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction", "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1,
}  # fmt: skip
INDEX = {
    "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.42.1", "requires_safety_checker": False,
    "feature_extractor": [None, None], "safety_checker": [None, None], "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
}  # fmt: skip
BATCH, RATE, PAINTED, GAMMA = 64, 1.2e-3, 0.3, 5.0


class Model(nn.Module):
    """UNet and text encoder as one module, so that one optimizer and one average hold both."""

    def __init__(self) -> None:
        super().__init__()
        self.unet, self.text = UNet2DConditionModel(UNET), CLIPTextModel(CLIPTextConfig(**TEXT))

    def forward(self, noisy: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        """noisy [B,4,16,16], t f32[B], ids i64[B,32] -> v [B,4,16,16]."""
        return self.unet(noisy, t, self.text(ids).last_hidden_state)


def alphas_cumprod() -> Tensor:
    betas = torch.linspace(SCHEDULER["beta_start"] ** 0.5, SCHEDULER["beta_end"] ** 0.5, 1000, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0).float()


def encode_all() -> tuple[Tensor, Tensor, list[tuple[int, str | None]]]:
    """Every picture and painted variant: posterior mean and std (scaled) f16[K,4,16,16] and its (picture, colour).

    Cached in work/latents.pt.
    """
    cache = WORK / "latents.pt"
    if not cache.exists():
        vae = AutoencoderKL(json.loads((OUT / "vae/config.json").read_text())).to(device).eval()
        vae.load_state_dict(load_file(OUT / "vae/diffusion_pytorch_model.safetensors"))
        rgba = load()[1]
        painted = np.load(WORK / "painted.npz")
        rows = [(i, None) for i in range(len(rgba))] + [
            (int(i), str(c)) for i, c in zip(painted["index"], painted["colour"], strict=True)
        ]
        x = np.concatenate([on_white(rgba), painted["rgb"]])
        with torch.no_grad(), autocast():
            parts = [vae.encode(to_tensor(x[i : i + 128])) for i in range(0, len(x), 128)]
        save_atomic(
            {
                "mean": torch.cat([p[0] for p in parts]).half().cpu(),
                "std": torch.cat([p[1] for p in parts]).half().cpu(),
                "rows": rows,
            },
            cache,
        )
    state = torch.load(cache)
    return state["mean"], state["std"], state["rows"]


class Draw:
    """Random (latent row, caption): a picture by its weight, painted in a random colour 30% of the time."""

    def __init__(self, known: list[Picture], rows: list[tuple[int, str | None]], seed: int):
        self.known, self.rng = known, np.random.default_rng(seed)
        self.row = {pair: k for k, pair in enumerate(rows)}
        weight = np.array([p.weight for p in known])
        self.probability = weight / weight.sum()

    def batch(self, size: int) -> tuple[list[int], list[str]]:
        rows, captions = [], []
        for i in self.rng.choice(len(self.known), size, p=self.probability):
            picture = self.known[i]
            colour = (
                str(self.rng.choice(picture.variants)) if picture.variants and self.rng.random() < PAINTED else None
            )
            rows.append(self.row[int(i), colour])
            captions.append(caption(picture, colour, self.rng))
        return rows, captions


def write(model: Model) -> None:
    """work/emoji as diffusers expects it (vae/ and tokenizer/ are there already)."""
    write_model(OUT / "unet", "diffusion_pytorch_model", model.unet.state_dict(), UNET)
    text = {
        k if k.startswith("text_model.") else f"text_model.{k}": v
        for k, v in model.text.state_dict().items()
        if "position_ids" not in k
    }
    config = {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "layer_norm_eps": 1e-5,
        "attention_dropout": 0.0,
        "torch_dtype": "float32",
        **TEXT,
    }
    write_model(OUT / "text_encoder", "model", text, config)
    (OUT / "scheduler").mkdir(exist_ok=True)
    (OUT / "scheduler/scheduler_config.json").write_text(json.dumps(SCHEDULER, indent=2) + "\n")
    (OUT / "model_index.json").write_text(json.dumps(INDEX, indent=2) + "\n")


def read(model: Model) -> None:
    """The weights in work/emoji, as write() leaves them."""
    model.unet.load_state_dict(load_file(OUT / "unet/diffusion_pytorch_model.safetensors"))
    ours = model.text.state_dict()
    text = load_file(OUT / "text_encoder/model.safetensors")
    text = {k if k in ours else k.removeprefix("text_model."): v for k, v in text.items()}
    model.text.load_state_dict(ours | text)


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument(
        "--minutes", type=float, default=50, help="wall-clock length of the whole schedule, earlier runs included"
    )
    minutes = args.parse_args().minutes
    pictures()
    mean, std, rows = encode_all()
    torch.manual_seed(0)
    model = Model().to(device)
    model.unet.to(memory_format=torch.channels_last)
    average = Average(model, 0.998)
    muon, adam = optimizers(model, RATE)
    step, spent, path = 0, 0.0, WORK / "unet.pt"
    if path.exists():
        state = torch.load(path, map_location=device)
        model.load_state_dict(state["model"])
        average.module.load_state_dict(state["average"])
        muon.load_state_dict(state["muon"])
        adam.load_state_dict(state["adam"])
        step, spent, average.updates = state["step"], state["spent"], state["step"]
    elif (OUT / "unet").exists():  # the weights of from_bundle.py
        read(model)
        read(average.module)
    tokenizer, draw, acp = (
        CLIPTokenizer.from_pretrained(OUT / "tokenizer"),
        Draw(load()[0], rows, step),
        alphas_cumprod().to(device),
    )
    torch.manual_seed(step)
    for name, part in (("unet", model.unet), ("text encoder", model.text)):
        print(f"{name}: {sum(p.numel() for p in part.parameters()):,} parameters", flush=True)
    log = Log("unet.csv", ["step", "minutes", "loss", "rate", "pictures_per_s"])

    def save() -> None:
        save_atomic(
            {
                "model": model.state_dict(),
                "average": average.module.state_dict(),
                "muon": muon.state_dict(),
                "adam": adam.state_dict(),
                "step": step,
                "spent": spent,
            },
            path,
        )
        write(average.module)

    last = saved = logged = time.time()
    total, count = 0.0, 0
    while spent < minutes * 60:
        done = min(1, spent / (minutes * 60))
        rate = RATE * min(1, (step + 1) / 200) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        for group in muon.param_groups + adam.param_groups:
            group["lr"] = rate
        chosen, captions = draw.batch(BATCH)
        ids = tokenizer(
            captions,
            padding="max_length",
            truncation=True,
            max_length=TEXT["max_position_embeddings"],
            return_tensors="pt",
        ).input_ids
        centre, spread = mean[chosen].to(device).float(), std[chosen].to(device).float()
        x0 = centre + spread * torch.randn_like(centre)
        t = (
            ((torch.arange(BATCH) + torch.rand(BATCH)) / BATCH * 1000).long().clamp(max=999).to(device)
        )  # stratified: less noise in the loss
        alpha, sigma = acp[t].sqrt().view(-1, 1, 1, 1), (1 - acp[t]).sqrt().view(-1, 1, 1, 1)
        noise = torch.randn_like(x0)
        snr = acp[t] / (1 - acp[t])
        with sdpa_kernel(SDPBackend.MATH):  # 64 positions: plain matrix products are a tenth faster on a CPU
            with autocast():
                predicted = model(alpha * x0 + sigma * noise, t.float(), ids.to(device)).float()
            error = (predicted - (alpha * noise - sigma * x0)).square().mean((1, 2, 3))
            loss = (error * snr.clamp(max=GAMMA) / (snr + 1)).mean()
            model.zero_grad(set_to_none=True)
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        muon.step()
        adam.step()
        average.update(model)
        step, total, count = step + 1, total + loss.item(), count + 1
        now = time.time()
        spent, last = spent + now - last, now
        if step % 100 == 0:
            log.row(step, spent / 60, total / count, rate, count * BATCH / (now - logged))
            logged, total, count = now, 0.0, 0
        if now - saved > 180:
            save()
            saved = now
    save()


if __name__ == "__main__":
    main()
