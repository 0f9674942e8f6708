"""What both training scripts share: atomic checkpoints, the exponential moving average, the log, the autocast."""

from __future__ import annotations

import copy
import csv
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

WORK = Path(__file__).parent / "work"
OUT = WORK / "emoji"  # the trained checkpoint, in diffusers layout
sys.path.append(str(Path(__file__).parents[2]))  # so that `exporters` is found from a clone without installing

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast() -> torch.autocast:
    """bf16 arithmetic over fp32 weights, where the processor has it: elsewhere it is emulated, three times slower."""
    fast = device.type != "cpu" or torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=fast)


def save_atomic(state: Mapping[str, Any], path: Path) -> None:
    torch.save(dict(state), path.with_suffix(".part"))
    os.replace(path.with_suffix(".part"), path)


class Average:
    """Exponential moving average of a module's weights, warmed up so that early steps are forgotten."""

    def __init__(self, module: nn.Module, decay: float):
        self.module, self.decay, self.updates = copy.deepcopy(module).eval().requires_grad_(False), decay, 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(list(self.module.parameters()), [p.detach() for p in module.parameters()], 1 - decay)


class Log:
    """Appends rows to work/NAME.csv."""

    def __init__(self, name: str, columns: list[str]):
        self.path = WORK / name
        new = not self.path.exists()
        self.file = self.path.open("a", newline="")
        self.writer = csv.writer(self.file)
        if new:
            self.writer.writerow(columns)

    def row(self, *values: Any) -> None:
        self.writer.writerow([f"{v:.5g}" if isinstance(v, float) else v for v in values])
        self.file.flush()
        print(*[f"{v:.5g}" if isinstance(v, float) else v for v in values], flush=True)


def write_model(folder: Path, stem: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """config.json, STEM.safetensors (fp32) and STEM.fp16.safetensors, as diffusers and transformers name them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    full = {k: v.detach().float().cpu().contiguous() for k, v in tensors.items()}
    save_file(full, folder / f"{stem}.safetensors", {"format": "pt"})
    save_file({k: v.half() for k, v in full.items()}, folder / f"{stem}.fp16.safetensors", {"format": "pt"})
    for path in folder.iterdir():  # safetensors writes them for the owner alone
        path.chmod(0o644)
