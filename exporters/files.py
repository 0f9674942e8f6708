"""What of a checkpoint's own files is copied into its bundle."""

import json
import shutil
from pathlib import Path

from diffrt.hub import PAGES

from .checkpoint import Checkpoint

TOKENIZER_FILES = (
    "vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.txt", "spiece.model",
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
