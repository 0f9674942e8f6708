"""One small checkpoint with every peculiarity that export must take in its stride, and the bundle made of it."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from diffusers import KarrasVeScheduler
from safetensors.torch import load_file, save_file

import exporters

from .mini import contents, edit, write_mini


class Awkward(NamedTuple):
    source: Path
    before: Mapping[str, bytes]  # the source's files as they were
    bundle: Path
    lines: list[str]  # what export said


def shard(file: Path) -> None:
    """One safetensors file -> three and their index."""
    tensors = load_file(file)
    file.unlink()
    where = {name: f"{file.stem}-0000{k % 3 + 1}-of-00003.safetensors" for k, name in enumerate(sorted(tensors))}
    for name in set(where.values()):
        save_file({t: tensors[t] for t in tensors if where[t] == name}, file.with_name(name), {"format": "pt"})
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": where}
    file.with_name(file.name + ".index.json").write_text(json.dumps(index))


@pytest.fixture(scope="session")
def awkward(tmp_path_factory) -> Awkward:
    """2022 names, a sharded UNet, a position_ids tensor, an unused half-precision file and index, a safety checker and
    a scheduler that diffrt lacks; exported with copied weights."""
    source = write_mini(tmp_path_factory.mktemp("awkward") / "checkpoint")
    shard(source / "unet" / "diffusion_pytorch_model.safetensors")
    text = source / "text_encoder" / "model.safetensors"
    save_file(load_file(text) | {"text_model.embeddings.position_ids": torch.arange(77)[None]}, text, {"format": "pt"})
    (source / "vae" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"never read")
    (source / "vae" / "diffusion_pytorch_model.safetensors.index.fp16.json").write_text("never read")
    for part in ("safety_checker", "feature_extractor"):
        (source / part).mkdir()
        (source / part / "config.json").write_text("never read")
    KarrasVeScheduler().save_pretrained(source / "scheduler")
    edit(
        source / "model_index.json",
        scheduler=["diffusers", "KarrasVeScheduler"],
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPImageProcessor"],
    )
    (source / "LICENSE").write_text("Do what you like.")
    before, lines = contents(source), []
    bundle = exporters.export(
        source, source.with_name("bundle"), copy_weights=True, verify=False, progress=lines.append
    )
    return Awkward(source, before, bundle, lines)


@pytest.fixture(scope="session")
def pristine(tmp_path_factory):
    """A small checkpoint, to be read and not written."""
    return write_mini(tmp_path_factory.mktemp("pristine") / "checkpoint")


@pytest.fixture
def checkpoint(pristine, tmp_path):
    """A copy of one's own, to be damaged."""
    return shutil.copytree(pristine, tmp_path / "in" / "checkpoint")
