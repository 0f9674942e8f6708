"""A checkpoint folder of 2022, with PyTorch pickles for weights, as a folder with safetensors."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from diffrt.folders import Say, link

from ..safetensors_writer import Stored, write_header
from ..weights import MARKS, find
from .tensors import from_pickle

STEMS = {"diffusion_pytorch_model": "diffusion_pytorch_model", "pytorch_model": "model"}  # of pickles -> today's
TEXT = (".json", ".txt", ".md", ".model")


def pickled_weights(folder: Path, precision: str) -> Path | None:
    """The pickle that holds a part's weights, where no safetensors do."""
    for mark in MARKS[precision]:
        if find(folder, mark):
            return None
        for stem in STEMS:
            if (folder / f"{stem}{mark}.bin").is_file():
                return folder / f"{stem}{mark}.bin"
    return None


def with_safetensors(
    source: Path, folder: Path, parts: Iterable[str], pickles: Mapping[str, Path], copy_weights: bool, say: Say
) -> dict[Path, dict[str, Stored]]:
    """Lay out the source's JSON, text and safetensors in ``folder``, and new ones, bytes to come, for its pickles."""
    for part in (".", *parts, "scheduler", "tokenizer"):
        (folder / part).mkdir(exist_ok=True)
        for file in (source / part).glob("*.*"):
            if file.suffix in TEXT:
                shutil.copyfile(file, folder / part / file.name)
            elif file.suffix == ".safetensors" and part in parts:
                link(file.resolve(), folder / part / file.name, copy_weights, say)
    for file in source.glob("LICENSE"):
        shutil.copyfile(file, folder / file.name)
    converted = {}
    for part, file in pickles.items():
        stem, dot, rest = file.name.removesuffix(".bin").partition(".")
        safe = folder / part / f"{STEMS[stem]}{dot}{rest}.safetensors"
        converted[safe] = from_pickle(file)
        write_header(safe, converted[safe])
    return converted
