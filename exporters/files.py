"""The files of a bundle: what is copied from its checkpoint, and sizes and hashes as its manifest lists them."""

import hashlib
import json
import shutil
from pathlib import Path

from diffrt.hub import PAGES
from diffrt.manifest import MANIFEST, FileEntry
from diffrt.safetensors_header import header_length

from .checkpoint import Checkpoint

TOKENIZER_FILES = (
    "vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.txt",
)  # fmt: skip


def copy_texts(checkpoint: Checkpoint, folder: Path) -> None:
    """What a checkpoint says of the whole: its pages, its index, its tokenizers and its scheduler."""
    for name in PAGES:
        if (checkpoint.root / name).is_file():
            shutil.copyfile(checkpoint.root / name, folder / name)
    index = dict(checkpoint.index) | {part: [None, None] for part in checkpoint.skipped}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2, ensure_ascii=False) + "\n", "utf-8")
    tokenizers = tuple(checkpoint.tokenizers.values())
    for part in ("scheduler", *tokenizers):
        (folder / part).mkdir()
    for name in (f"{part}/{file}" for part in tokenizers for file in TOKENIZER_FILES):
        if (checkpoint.root / name).is_file():
            shutil.copyfile(checkpoint.root / name, folder / name)
    for name in checkpoint.settings:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(checkpoint.root / name, folder / name)
    name = "scheduler/scheduler_config.json"
    shutil.copyfile(checkpoint.root / name, folder / name)


def file_entries(folder: Path) -> dict[str, FileEntry]:
    """An entry for every file but the manifest and README.md, a page that may be edited, by its path in the folder."""
    apart = (folder / MANIFEST, folder / "README.md")
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f not in apart)
    return {file.relative_to(folder).as_posix(): file_entry(file) for file in files}


def file_entry(file: Path) -> FileEntry:
    """Size and sha256; of safetensors the header's sha256 too, which loading can afford to check."""
    header = None
    if file.suffix == ".safetensors":
        with file.open("rb") as stream:
            header = hashlib.sha256(stream.read(header_length(file))).hexdigest()
    with file.open("rb") as stream:
        return FileEntry(file.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest(), header)
