"""Train the autoencoder: 64x64 pictures <-> 16x16x4 latents.

python train_vae.py --minutes 25        # resumes from work/vae.pt; stop it at any time
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from common import OUT, WORK, Average, Log, autocast, device, save_atomic, write_model
from data import load, on_white, paint
from muon import optimizers
from torch import Tensor

from exporters.models.vae import AutoencoderKL

CONFIG = {
    "_class_name": "AutoencoderKL", "in_channels": 3, "out_channels": 3, "latent_channels": 4, "sample_size": 64,
    "down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3,
    "block_out_channels": [32, 64, 96], "layers_per_block": 1, "norm_num_groups": 16, "act_fn": "silu",
    "scaling_factor": 1.0, "force_upcast": False,
}  # fmt: skip
BATCH, RATE, KL = 16, 2e-3, 1e-6


def pictures() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """-> train u8 [N,64,64,3], held-out u8 [M,64,64,3], every painted variant u8 [K,64,64,3].

    Every twentieth captioned picture is held out, its painted variants too. Those are cached in work/painted.npz.
    """
    known, rgba, others = load()
    cache = WORK / "painted.npz"
    if not cache.exists():
        rows = [(i, c, on_white(paint(rgba[i], c))) for i, p in enumerate(known) for c in p.variants]
        np.savez(cache, index=[r[0] for r in rows], colour=[r[1] for r in rows], rgb=np.stack([r[2] for r in rows]))
    painted = np.load(cache)
    index, rgb = painted["index"], painted["rgb"]
    held = np.arange(len(known)) % 20 == 7
    base = on_white(rgba)
    return np.concatenate([base[~held], on_white(others), rgb[~held[index]]]), base[held], rgb


def to_tensor(batch: np.ndarray) -> Tensor:
    """u8 [B,H,W,3] -> f32 [B,3,H,W] in [-1,1]."""
    return (torch.from_numpy(batch).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous()


def loss_terms(model: AutoencoderKL, x: Tensor) -> tuple[Tensor, Tensor]:
    """Reconstruction (L1 at three scales, and of the finite differences: sharp edges) and KL per picture."""
    with autocast():
        mean, logvar = model.moments(x).float().chunk(2, 1)
        logvar = logvar.clamp(-12, 4)
        y = model.decode_raw(mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)).float()
    error = y - x
    edges = (error[..., 1:] - error[..., :-1]).abs().mean() + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    coarse = sum(F.avg_pool2d(error, k).abs().mean() for k in (2, 4))
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum((1, 2, 3)).mean()
    return error.abs().mean() + 4 * error.square().mean() + 0.5 * edges + 0.5 * coarse, kl


@torch.no_grad()
def psnr(model: AutoencoderKL, held: np.ndarray) -> float:
    """Mean PSNR in dB over held-out pictures, decoding the posterior mean in fp32."""
    x = to_tensor(held)
    y = torch.cat([model.decode_raw(model.moments(b).chunk(2, 1)[0]) for b in x.split(32)]).clamp(-1, 1)
    return float((-10 * torch.log10(((x - y) / 2).square().mean((1, 2, 3)))).mean())


def finish(model: AutoencoderKL, sample: np.ndarray) -> float:
    """Measure 1/std of the latents and write the vae folder."""
    with torch.no_grad():
        mean, logvar = torch.cat([model.moments(b) for b in to_tensor(sample).split(64)]).chunk(2, 1)
    scale = 1 / math.sqrt(float(mean.var() + logvar.exp().mean()))
    write_model(
        OUT / "vae", "diffusion_pytorch_model", model.state_dict(), {**CONFIG, "scaling_factor": round(scale, 5)}
    )
    return scale


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument(
        "--minutes", type=float, default=25, help="wall-clock length of the whole schedule, earlier runs included"
    )
    minutes = args.parse_args().minutes
    train, held, _ = pictures()
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
    print(
        f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(train):,} pictures, {len(held)} held out",
        flush=True,
    )
    log, rng, last, saved = (
        Log("vae.csv", ["step", "minutes", "loss", "kl", "psnr_db", "pictures_per_s"]),
        np.random.default_rng(step),
        time.time(),
        time.time(),
    )
    total, count = torch.zeros(2, device=device), 0
    while spent < minutes * 60:
        rate = (
            RATE
            * min(1, (step + 1) / 100)
            * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1, spent / (minutes * 60)))))
        )
        for group in muon.param_groups + adam.param_groups:
            group["lr"] = rate
        batch = train[rng.integers(len(train), size=BATCH)]
        if rng.random() < 0.5:
            batch = batch[:, :, ::-1].copy()
        recon, kl = loss_terms(model, to_tensor(batch))
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
            saved = now
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
    print("scaling_factor", finish(average.module, train[:512]), "psnr", psnr(average.module, held))


if __name__ == "__main__":
    main()
