"""Train the autoencoder: 64x64 pictures <-> 16x16x4 latents. grow_vae.py makes it one of 128x128.

python train_vae.py --minutes 25        # resumes from work/vae.pt; stop it at any time
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from common import WORK, Average, Log, autocast, device, save_atomic, write_model
from data import held_out, load, on_white, paint
from muon import optimizers
from PIL import Image
from torch import Tensor

from exporters.models.vae import AutoencoderKL

CONFIG = {
    "_class_name": "AutoencoderKL", "in_channels": 3, "out_channels": 3, "latent_channels": 4, "sample_size": 64,
    "down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3,
    "block_out_channels": [32, 64, 96], "layers_per_block": 1, "norm_num_groups": 16, "act_fn": "silu",
    "scaling_factor": 1.0, "force_upcast": False,
}  # fmt: skip
BATCH, RATE, KL, PAINTED = 16, 2e-3, 1e-6, 0.6  # PAINTED: of the pictures that can be


class Draw:
    """Random pictures on white, mirrored half of the time and painted PAINTED of it; held-out ones are in `held`."""

    def __init__(self, seed: int):
        self.known, rgba, others = load()
        self.rng, held = np.random.default_rng(seed), held_out(self.known)
        self.held = on_white(rgba[held])
        self.rgba = np.concatenate([rgba, others])
        self.pool = np.flatnonzero(np.append(~held, np.ones(len(others), bool)))

    def one(self) -> np.ndarray:
        i = int(self.rng.choice(self.pool))
        rgba = self.rgba[i]
        if i < len(self.known) and self.known[i].variants and self.rng.random() < PAINTED:
            rgba = paint(rgba, str(self.rng.choice(self.known[i].variants)))
        return on_white(rgba[:, ::-1] if self.rng.random() < 0.5 else rgba)

    def batch(self, size: int) -> np.ndarray:
        """u8 [size,128,128,3]"""
        return np.stack([self.one() for _ in range(size)])


def halved(batch: np.ndarray) -> np.ndarray:
    """u8 [B,128,128,3] -> u8 [B,64,64,3]."""
    return np.stack([np.asarray(Image.fromarray(p).resize((64, 64), Image.Resampling.LANCZOS)) for p in batch])


def to_tensor(batch: np.ndarray) -> Tensor:
    """u8 [B,H,W,3] -> f32 [B,3,H,W] in [-1,1]."""
    return (torch.from_numpy(batch).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous()


def loss_of(error: Tensor) -> Tensor:
    """L1 at three scales and of the finite differences (sharp edges), and a squared part."""
    edges = (error[..., 1:] - error[..., :-1]).abs().mean() + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    coarse = sum(F.avg_pool2d(error, k).abs().mean() for k in (2, 4))
    return error.abs().mean() + 4 * error.square().mean() + 0.5 * edges + 0.5 * coarse


def loss_terms(model: AutoencoderKL, x: Tensor) -> tuple[Tensor, Tensor]:
    """Reconstruction and KL per picture."""
    with autocast():
        mean, logvar = model.moments(x).float().chunk(2, 1)
        logvar = logvar.clamp(-12, 4)
        y = model.decode_raw(mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)).float()
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum((1, 2, 3)).mean()
    return loss_of(y - x), kl


@torch.no_grad()
def psnr(vae: AutoencoderKL, held: np.ndarray) -> float:
    """Mean PSNR in dB over held-out pictures, decoding the posterior mean in fp32."""
    x = to_tensor(held)
    y = torch.cat([vae.decode(vae.encode(b)[0]) for b in x.split(16)]).clamp(-1, 1)
    return float((-10 * torch.log10(((x - y) / 2).square().mean((1, 2, 3)))).mean())


def finish(model: AutoencoderKL, sample: np.ndarray) -> float:
    """Measure 1/std of the latents and write work/vae64."""
    with torch.no_grad():
        mean, logvar = torch.cat([model.moments(b) for b in to_tensor(sample).split(64)]).chunk(2, 1)
    scale = 1 / math.sqrt(float(mean.var() + logvar.exp().mean()))
    write_model(
        WORK / "vae64", "diffusion_pytorch_model", model.state_dict(), {**CONFIG, "scaling_factor": round(scale, 5)}
    )
    return scale


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument(
        "--minutes", type=float, default=25, help="wall-clock length of the whole schedule, earlier runs included"
    )
    minutes = args.parse_args().minutes
    torch.manual_seed(0)
    model = AutoencoderKL(CONFIG).to(device)
    average = Average(model, 0.998)
    muon, adam = optimizers(model, RATE)
    step, spent, path = 0, 0.0, WORK / "vae.pt"
    if path.exists():
        state = torch.load(path, map_location=device)
        model.load_state_dict(state["model"])
        average.module.load_state_dict(state["average"])
        muon.load_state_dict(state["muon"])
        adam.load_state_dict(state["adam"])
        step, spent, average.updates = state["step"], state["spent"], state["step"]
    draw = Draw(step)
    held = halved(draw.held)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(held)} pictures held out", flush=True)
    log = Log("vae.csv", ["step", "minutes", "loss", "kl", "psnr_db", "pictures_per_s"])
    last = saved = time.time()

    def save() -> None:
        save_atomic({"model": model.state_dict(), "average": average.module.state_dict(), "muon": muon.state_dict(),
                     "adam": adam.state_dict(), "step": step, "spent": spent}, path)  # fmt: skip

    total, count = torch.zeros(2, device=device), 0
    while spent < minutes * 60:
        rate = (
            RATE
            * min(1, (step + 1) / 100)
            * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1, spent / (minutes * 60)))))
        )
        for group in muon.param_groups + adam.param_groups:
            group["lr"] = rate
        recon, kl = loss_terms(model, to_tensor(halved(draw.batch(BATCH))))
        model.zero_grad(set_to_none=True)
        (recon + KL * kl).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        muon.step()
        adam.step()
        average.update(model)
        step, count = step + 1, count + 1
        total += torch.stack([recon.detach(), kl.detach()])
        now = time.time()
        spent, last, elapsed = spent + now - last, now, now - last
        if step % 200 == 0 or step == 20:
            mean = (total / count).tolist()
            log.row(step, spent / 60, *mean, psnr(average.module, held), BATCH / elapsed)
            total, count = torch.zeros(2, device=device), 0
            last = time.time()
        if now - saved > 120:
            save()
            saved = now
    save()
    print("scaling_factor", finish(average.module, halved(draw.batch(512))), "psnr", psnr(average.module, held))


if __name__ == "__main__":
    main()
