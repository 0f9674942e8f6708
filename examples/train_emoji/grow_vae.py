"""Grow the autoencoder from 64x64 to 128x128 pictures over the same 16x16x4 latents.

    python grow_vae.py --steps 600        # reads work/vae64, resumes from work/grow.pt; stop it at any time

A new first stage of the encoder learns to give the features that the old encoder has of the same picture at half the
size, so that latents stay what they were and nothing a diffusion model learnt over them is lost. A new last stage of
the decoder starts as the identity, behind an upsampling by two; then the whole decoder learns the larger picture.
"""

from __future__ import annotations

import argparse
import copy
import json
import signal
import time

import numpy as np
import torch
from common import OUT, WORK, Average, Log, autocast, device, save_atomic, write_model
from compose import KINDS, DrawScenes, compose, scenes
from data import held_out
from muon import optimizers
from safetensors.torch import load_file
from torch import Tensor, nn
from train_vae import CONFIG as SMALL
from train_vae import Draw, halved, loss_of, psnr, to_tensor

from exporters.models.vae import AutoencoderKL

CONFIG = {
    **SMALL, "sample_size": 128, "block_out_channels": [32, *SMALL["block_out_channels"]],
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
}  # fmt: skip
BATCH, RATE, NOISE = 8, 1.2e-3, 0.06
SCENES = 2  # of each batch of the decoder, half of them on a coloured ground: the old autoencoder saw white alone
ENCODER_STEPS = 400


def identity(conv: nn.Conv2d) -> None:
    """The first channels pass through, the centre of the kernel alone."""
    nn.init.dirac_(conv.weight)
    nn.init.zeros_(conv.bias)


@torch.no_grad()
def grown(old: AutoencoderKL) -> AutoencoderKL:
    """The old weights one stage further in; the new outer stages do nothing yet."""
    new = AutoencoderKL({**CONFIG, "scaling_factor": old.scale})
    state = {}
    for key, value in old.state_dict().items():
        parts = key.split(".")
        if key.startswith("encoder.down_blocks"):
            parts[2] = str(int(parts[2]) + 1)
        if not key.startswith("encoder.conv_in"):
            state[".".join(parts)] = value
    new.load_state_dict(state, strict=False)
    first, last = new.encoder.down_blocks[0], new.decoder.up_blocks[3]
    for resnet in (first.resnets[0], *last.resnets):
        nn.init.zeros_(resnet.conv2.weight)
        nn.init.zeros_(resnet.conv2.bias)
    identity(new.encoder.conv_in)
    identity(new.decoder.up_blocks[2].upsamplers[0].conv)
    return new


class DrawBoth(Draw):
    """Pictures and, last in each batch, scenes of those it may see."""

    def __init__(self, seed: int):
        super().__init__(seed)
        everything, unseen = scenes(self.known), held_out(self.known)
        allowed = [not any(unseen[i] for i, _ in s.things) for s in everything]
        self.scene = DrawScenes(everything, allowed, self.rng, KINDS | {"ground": 0.75})

    def batch(self, size: int) -> np.ndarray:
        last = [compose(self.scene.all[k], self.rgba) for k in self.scene(SCENES)]
        return np.concatenate([super().batch(size - SCENES), last])


def first_stage(vae: AutoencoderKL, x: Tensor) -> Tensor:
    """[B,3,128,128] -> [B,32,64,64], where the old encoder goes on."""
    stage = vae.encoder.down_blocks[0]
    return stage.downsamplers[0](stage(vae.encoder.conv_in(x)))


def teach_encoder(new: AutoencoderKL, old: AutoencoderKL, draw: Draw) -> None:
    """The new first stage against the old first convolution of the halved picture."""
    parts = [*new.encoder.conv_in.parameters(), *new.encoder.down_blocks[0].parameters()]
    adam = torch.optim.AdamW(parts, 3e-3, betas=(0.9, 0.98), weight_decay=0)
    for step in range(ENCODER_STEPS):
        adam.param_groups[0]["lr"] = 3e-3 * min(1, (step + 1) / 20) * (1 - step / ENCODER_STEPS)
        batch = draw.batch(BATCH)
        with torch.no_grad():
            target = old.encoder.conv_in(to_tensor(halved(batch)))
        loss = (first_stage(new, to_tensor(batch)) - target).square().mean()
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
        if step % 50 == 0 or step == ENCODER_STEPS - 1:
            print("encoder", step, f"relative error {loss.item() / target.square().mean().item():.5f}", flush=True)
    held = draw.held[:64]
    with torch.no_grad():
        was, now = old.encode(to_tensor(halved(held)))[0], new.encode(to_tensor(held))[0]
    print(f"latents differ by {float((was - now).square().mean() / was.square().mean()) ** 0.5:.4f} of their size")


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--steps", type=int, default=600, help="of the decoder's whole schedule, earlier runs included")
    args.add_argument("--threads", type=int, help="of the processor")
    options = args.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    old = AutoencoderKL(json.loads((WORK / "vae64/config.json").read_text())).to(device).eval().requires_grad_(False)
    old.load_state_dict(load_file(WORK / "vae64/diffusion_pytorch_model.safetensors"))
    new, path, step, spent = grown(old).to(device), WORK / "grow.pt", 0, 0.0
    if not path.exists():
        teach_encoder(new, old, Draw(0))
        state = None
    else:
        state = torch.load(path, map_location=device)
        new.load_state_dict(state["model"])
        step, spent = state["step"], state["spent"]
    new.encoder.requires_grad_(False)
    new.quant_conv.requires_grad_(False)
    decoder = nn.ModuleList([new.post_quant_conv, new.decoder])
    average = Average(decoder, 0.995)
    muon, adam = optimizers(decoder, RATE)
    if state:
        average.module.load_state_dict(state["average"])
        muon.load_state_dict(state["muon"])
        adam.load_state_dict(state["adam"])
        average.updates = step
    best = copy.deepcopy(new)  # the averaged decoder behind the encoder

    def save() -> None:
        best.post_quant_conv.load_state_dict(average.module[0].state_dict())
        best.decoder.load_state_dict(average.module[1].state_dict())
        save_atomic({"model": new.state_dict(), "average": average.module.state_dict(), "muon": muon.state_dict(),
                     "adam": adam.state_dict(), "step": step, "spent": spent}, path)  # fmt: skip
        config = {**CONFIG, "scaling_factor": old.scale}
        write_model(OUT / "vae", "diffusion_pytorch_model", best.state_dict(), config)

    save()
    draw = DrawBoth(step + 1)
    print(f"{sum(p.numel() for p in new.parameters()):,} parameters; held-out PSNR {psnr(best, draw.held):.2f} dB")
    log = Log("grow.csv", ["step", "minutes", "loss", "psnr_db", "pictures_per_s"])
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    last = saved = logged = time.time()
    total, count = 0.0, 0
    while not stop and step < options.steps:
        rate = RATE * min(1, (step + 1) / 50) * min(1, 1.5 * (1 - step / options.steps))
        for group in muon.param_groups + adam.param_groups:
            group["lr"] = rate
        x = to_tensor(draw.batch(BATCH))
        with autocast():
            with torch.no_grad():
                mean, std = new.encode(x)
            y = new.decode(mean + (std.square() + NOISE**2).sqrt() * torch.randn_like(mean)).float()
        loss = loss_of(y - x)
        decoder.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(decoder.parameters(), 0.5)
        muon.step()
        adam.step()
        average.update(decoder)
        step, total, count, now = step + 1, total + loss.item(), count + 1, time.time()
        spent, last = spent + now - last, now
        if now - saved > 150:
            save()
            speed = count * BATCH / (now - logged)
            log.row(step, spent / 60, total / count, psnr(best, draw.held[:24]), speed)
            last = saved = logged = time.time()
            total, count = 0.0, 0
    save()
    print(f"held-out PSNR {psnr(best, draw.held):.2f} dB")


if __name__ == "__main__":
    main()
