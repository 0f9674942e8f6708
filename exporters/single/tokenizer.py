"""Prompts as text: onnxruntime-extensions' CLIPTokenizer, with what it lacks to be ours put around it.

It splits at blanks alone, reads a number as one word, mistakes a contraction after a blank, and ends the process where
a special token is written out inside a text or where it is to cut one off. So white space becomes blanks, digits are
set apart, special tokens are broken up, and cutting and padding are done here. What still differs: text that is not in
Unicode's normal form C, special tokens that are written out, and NUL, where its text ends.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from diffrt.components.tokenizer import Tokenizer
from diffrt.errors import InvalidArgument

from ..nodes import ints
from .assembly import Assembly

DOMAIN = "ai.onnx.contrib"
REPLACEMENTS = (
    (r"(?i)<\|(startoftext|endoftext)\|>", r"<|\1 |>"),
    (r"[\t-\r\x{85}\pZ]+", " "),
    (r"(\pN)", r" \1 "),
    (r"([\pL\pN]) +'", r"\1'"),
)


@dataclass(frozen=True)
class Vocabulary:
    """What a host needs to make ids of a prompt."""

    vocab: str  # the text of a vocab.json
    merges: str  # and of a merges.txt
    tokens: int  # of a prompt, with start and end
    start: int
    end: int
    pad: int

    @classmethod
    def read(cls, root: Path, entry: Mapping[str, Any]) -> "Vocabulary":
        folder, length = root / entry["folder"], entry["max_length"]
        start, end, pad = Tokenizer(folder, length, entry["pad"])([""]).ids[0, :3].tolist()
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            vocab, merges = ((folder / name).read_text("utf-8") for name in ("vocab.json", "merges.txt"))
        else:
            model = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]
            pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
            vocab, merges = json.dumps(model["vocab"], ensure_ascii=False), "\n".join(["#version: 0.2", *pairs, ""])
        return cls(vocab, merges, length, start, end, pad)


def tokenized(main: Assembly, text: ir.Value, vocabulary: Vocabulary) -> ir.Value:
    """str [N] -> i64 [N,L]."""
    if vocabulary.pad != vocabulary.end:
        raise InvalidArgument(
            "--tokenizer op: this model pads prompts with a token that is also a word, and the op cannot tell them "
            "apart; take --tokenizer ids"
        )
    do = main.do
    for pattern, replacement in REPLACEMENTS:
        pair = [do("Constant", value_strings=[each]) for each in (pattern, replacement)]
        text = do("StringRegexReplace", text, *pair, domain=DOMAIN)
    attributes: dict[str, Any] = {"vocab": vocabulary.vocab, "merges": vocabulary.merges, "padding_length": -1}
    ids, mask, _ = do("CLIPTokenizer", text, outputs=3, domain=DOMAIN, **attributes)  # as long as the longest
    end, length = np.int64(vocabulary.end), vocabulary.tokens
    ids = do("Where", do("Equal", mask, np.int64(1)), ids, end)
    padding = do("Expand", end, do("Concat", do("Shape", text, end=1), ints(length), axis=0))
    cut = do("Slice", do("Concat", ids, padding, axis=1), ints(0), ints(length - 1), ints(1))
    last = do("Slice", padding, ints(0), ints(1), ints(1))
    return do("Concat", cut, last, axis=1)
