"""CLIP's tokenizer files, which a single-file checkpoint lacks, from the merges inside the package."""

import gzip
import json
from pathlib import Path

MERGES = Path(__file__).parents[1] / "data" / "clip_merges.txt.gz"
VOCABULARY = 49_408  # 256 bytes, 256 that end a word, 48,894 merges and two special tokens
START, END = "<|startoftext|>", "<|endoftext|>"


def write_tokenizer(folder: Path, pad: str) -> None:
    """vocab.json, merges.txt and the two files that name the special tokens, in the new folder."""
    merges = gzip.decompress(MERGES.read_bytes()).decode("utf-8").splitlines()
    letters = byte_letters()
    words = [*letters, *(c + "</w>" for c in letters), *(m.replace(" ", "") for m in merges), START, END]
    tokens = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad}
    settings = {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, "errors": "replace",
        "add_prefix_space": False,
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8", newline="\n")
    for name, record in {
        "vocab.json": {word: i for i, word in enumerate(words)},
        "special_tokens_map.json": tokens,
        "tokenizer_config.json": settings | tokens,
    }.items():
        (folder / name).write_text(json.dumps(record, ensure_ascii=False), "utf-8")


def byte_letters() -> list[str]:
    """A printable letter for each byte: those that print as themselves first, then the others from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
