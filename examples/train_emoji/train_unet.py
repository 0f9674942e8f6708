"""Train the text encoder and the UNet together, from scratch, on cached latents.

    python train_unet.py --steps 4000 --cool 800       # resumes from work/unet.pt; stop it at any time

Needs work/emoji/vae and work/emoji/tokenizer. Latent diffusion (Rombach et al. 2022) with v-prediction (Salimans & Ho
2022, section 4) and the min-SNR weight (Hang et al. 2023): v = alpha*eps - sigma*x0, weight min(snr, 5) / (snr + 1).
Every few minutes the averaged weights are written to work/emoji, whole and loadable by diffusers.
"""

from __future__ import annotations

import argparse
import json
import signal
import time
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import numpy as np
import torch
from common import OUT, WORK, Average, Log, autocast, device, save_atomic, write_model
from compose import COMPOSED, DrawScenes, Scene, compose, held, scene_caption, scenes
from data import FLAT, Picture, caption, held_flat, load, on_white, paint
from muon import optimizers
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from train_vae import to_tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from diffrt.schedulers import from_config
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
    "_class_name": "DPMSolverMultistepScheduler", "beta_start": 0.00085, "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "num_train_timesteps": 1000, "prediction_type": "v_prediction",
    "solver_order": 2, "algorithm_type": "dpmsolver++", "timestep_spacing": "trailing", "steps_offset": 1,
    "clip_sample": False, "set_alpha_to_one": False,  # carried for DDIM, when classes are switched
}  # fmt: skip
INDEX = {
    "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.42.1", "requires_safety_checker": False,
    "feature_extractor": [None, None], "safety_checker": [None, None],
    "scheduler": ["diffusers", SCHEDULER["_class_name"]],
    "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
}  # fmt: skip
BATCH, RATE, PAINTED, GAMMA = 48, 1e-3, 0.28, 5.0


class Model(nn.Module):
    """UNet and text encoder as one module, so that one optimizer and one average hold both."""

    def __init__(self) -> None:
        super().__init__()
        self.unet, self.text = UNet2DConditionModel(UNET), CLIPTextModel(CLIPTextConfig(**TEXT))

    def forward(self, noisy: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        """noisy [B,4,16,16], t f32[B], ids i64[B,32] -> v [B,4,16,16]."""
        return self.unet(noisy, t, self.text(ids).last_hidden_state)


def encode(rows: list[tuple], picture: Callable[..., np.ndarray], cache: Path) -> tuple[Tensor, Tensor]:
    """Each row's picture u8 [128,128,3] -> posterior mean and std (scaled) f16[K,4,16,16], cached."""
    if not cache.exists():
        vae = AutoencoderKL(json.loads((OUT / "vae/config.json").read_text())).to(device).eval()
        vae.load_state_dict(load_file(OUT / "vae/diffusion_pytorch_model.safetensors"))
        parts = []
        with torch.no_grad(), autocast():
            for k in range(0, len(rows), 64):
                parts.append(vae.encode(to_tensor(np.stack([picture(*row) for row in rows[k : k + 64]]))))
        mean, std = (torch.cat(part).half().cpu() for part in zip(*parts, strict=True))
        save_atomic({"mean": mean, "std": std, "rows": rows}, cache)
    state = torch.load(cache)
    if state["rows"] != rows:
        raise SystemExit(f"{cache} holds other pictures than the data has now: delete it, it is made anew")
    return state["mean"], state["std"]


class Draw:
    """Random (latent row, caption): a picture by its weight, painted in a random colour PAINTED of the time, or a scene
    COMPOSED of the time."""

    def __init__(self, known: list[Picture], rgba: np.ndarray, seed: int):
        self.known, self.rng = known, np.random.default_rng(seed)
        pairs = [(i, c) for i, p in enumerate(known) for c in (None, *p.variants)]
        self.row = {pair: k for k, pair in enumerate(pairs)}
        everything = scenes(known)
        self.scene = DrawScenes(everything, [not held(s) for s in everything], self.rng)
        parts = [
            encode(pairs, lambda i, c: on_white(rgba[i] if c is None else paint(rgba[i], c)), WORK / "latents.pt"),
            encode([astuple(s) for s in everything], lambda *s: compose(Scene(*s), rgba), WORK / "scenes.pt"),
        ]
        self.mean, self.std = (torch.cat(both) for both in zip(*parts, strict=True))
        weight, held_back = np.array([p.weight for p in known]), held_flat(known)
        flat = np.array([p.style == "flat" for p in known])
        self.probability = np.where(flat, FLAT * ~held_back * weight / weight[flat & ~held_back].sum(),
                                    (1 - FLAT) * weight / weight[~flat].sum())  # fmt: skip

    def batch(self, size: int) -> tuple[Tensor, Tensor, list[str]]:
        """-> mean and std f32[size,4,16,16], captions"""
        rows, captions = [], []
        whole = self.rng.choice(len(self.known), size, p=self.probability).tolist()
        for i, k, composed in zip(whole, self.scene(size), self.rng.random(size) < COMPOSED, strict=True):
            if composed:
                rows.append(len(self.row) + k)
                captions.append(scene_caption(self.scene.all[k], self.known, self.rng))
                continue
            picture, colour = self.known[i], None
            if picture.variants and self.rng.random() < PAINTED:
                colour = str(self.rng.choice(picture.variants))
            rows.append(self.row[i, colour])
            captions.append(caption(picture, colour, self.rng))
        return self.mean[rows].float(), self.std[rows].float(), captions


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
    args.add_argument("--steps", type=int, default=4000, help="of all runs together")
    args.add_argument("--cool", type=int, default=0, help="of these the last, in which the rate falls to nothing")
    args.add_argument("--threads", type=int, help="of the processor")
    options = args.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = Model().to(device)
    model.unet.to(memory_format=torch.channels_last)
    average = Average(model, 0.996)
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
    tokenizer, scheduler = CLIPTokenizer.from_pretrained(OUT / "tokenizer"), from_config(SCHEDULER)
    draw = Draw(*load()[:2], step)
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
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    while not stop and step < options.steps:
        rate = RATE * min(1, (step + 1) / 200, (options.steps - step) / max(options.cool, 1))
        for group in muon.param_groups + adam.param_groups:
            group["lr"] = rate
        centre, spread, captions = draw.batch(BATCH)
        ids = tokenizer(
            captions,
            padding="max_length",
            truncation=True,
            max_length=TEXT["max_position_embeddings"],
            return_tensors="pt",
        ).input_ids
        x0, noise = centre + spread * torch.randn_like(centre), torch.randn_like(centre)
        # stratified: less noise in the loss
        t = ((torch.arange(BATCH) + torch.rand(BATCH)) / BATCH * 1000).long().clamp(max=999).numpy()
        noisy = torch.from_numpy(scheduler.add_noise(x0.numpy(), noise.numpy(), t)).to(device)
        alpha, sigma = (torch.from_numpy(c).float() for c in scheduler.marginal(t))
        snr = (alpha / sigma).square()
        velocity = alpha.view(-1, 1, 1, 1) * noise - sigma.view(-1, 1, 1, 1) * x0
        with sdpa_kernel(SDPBackend.MATH):  # 64 positions: plain matrix products are a tenth faster on a CPU
            with autocast():
                predicted = model(noisy, torch.from_numpy(t).float().to(device), ids.to(device)).float()
            error = (predicted - velocity.to(device)).square().mean((1, 2, 3))
            loss = (error * (snr.clamp(max=GAMMA) / (snr + 1)).to(device)).mean()
            model.zero_grad(set_to_none=True)
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        muon.step()
        adam.step()
        average.update(model)
        step, total, count = step + 1, total + loss.item(), count + 1
        now = time.time()
        spent, last = spent + now - last, now
        if step % 50 == 0:
            log.row(step, spent / 60, total / count, rate, count * BATCH / (now - logged))
            logged, total, count = now, 0.0, 0
        if now - saved > 180:
            save()
            saved = now
    save()


if __name__ == "__main__":
    main()
