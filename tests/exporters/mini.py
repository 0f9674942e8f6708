"""The smallest checkpoint that still has every part, for tests of what surrounds tracing: pictures are latents x 2."""

import json
from pathlib import Path

import pytest

from tests import checkpoints

UNET = {
    "sample_size": 8, "block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 32, "attention_head_dim": 2,
}  # fmt: skip
VAE = {
    "block_out_channels": (8, 8), "norm_num_groups": 4, "latent_channels": 4, "sample_size": 16,
    "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
}  # fmt: skip


def write_mini(folder: Path, form: str = "2022") -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(checkpoints.UNETS, "mini", UNET)
        patch.setattr(checkpoints, "VAE", VAE)
        return checkpoints.write_checkpoint(folder, "mini", form)


def edit(file: Path, **changes) -> None:
    """Set keys of a JSON object; None deletes a key."""
    record = json.loads(file.read_text("utf-8")) | changes
    file.write_text(json.dumps({k: v for k, v in record.items() if v is not None}), "utf-8")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file's bytes, by path."""
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}
