"""spiece.model, the file of the SentencePiece library (Kudo & Richardson 2018, arXiv:1808.06226), which T5's tokenizer
is in where a folder has no tokenizer.json.

It is a protocol buffer: a message is fields, each a number, the way it is written, and a value. What is read of it:

    1  a piece, one for each id: 1 text, 2 score (float32), 3 kind
    2  how it was trained: 3 algorithm
    3  how texts are normalised: 2 a table of letters
"""

import struct
from collections.abc import Iterator
from pathlib import Path

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

LARGEST = 16 << 20  # bytes
UNIGRAM = 1  # the algorithm
NORMAL, UNKNOWN, CONTROL = 1, 2, 3  # kinds of pieces
SPACE = "▁"
Field = tuple[int, int | bytes]


def read_pieces(file: Path) -> tokenizers.Tokenizer:
    """Words at white space, each with a mark before it, are what pieces are made of. Raises ValueError."""
    if file.stat().st_size > LARGEST:
        raise ValueError(f"{file.name} has {file.stat().st_size} bytes; at most {LARGEST} are read")
    pieces: list[tuple[str, float]] = []
    unknown, algorithm, letters = None, UNIGRAM, b""
    for number, value in fields(file.read_bytes()):
        if number == 1:
            text, score, kind = _piece(_message(value))
            if kind not in (NORMAL, UNKNOWN, CONTROL):
                raise ValueError(f"{file.name}: piece {text!r} is of kind {kind}, which is not implemented")
            unknown = len(pieces) if kind == UNKNOWN else unknown
            pieces.append((text, score))
        elif number == 2:
            algorithm = dict(fields(_message(value))).get(3, UNIGRAM)  # type: ignore[assignment]
        elif number == 3:
            letters = _message(dict(fields(_message(value))).get(2, b""))
    if algorithm != UNIGRAM:
        raise ValueError(f"{file.name} was trained by algorithm {algorithm}: {UNIGRAM}, unigrams, is implemented")
    tokenizer = tokenizers.Tokenizer(models.Unigram(pieces, unknown))
    if letters:
        tokenizer.normalizer = normalizers.Precompiled(letters)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(SPACE, "always")]
    )
    return tokenizer


def _piece(data: bytes) -> tuple[str, float, int]:
    text, score, kind = "", 0.0, NORMAL
    for number, value in fields(data):
        if number == 1:
            text = _message(value).decode("utf-8")
        elif number == 2:
            (score,) = struct.unpack("<f", _message(value))
        elif number == 3 and isinstance(value, int):
            kind = value
    return text, score, kind


def _message(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("it is no SentencePiece model: a number stands where a message should")
    return value


def fields(data: bytes) -> Iterator[Field]:
    """Those of a message, in their order. Raises ValueError where it is none."""
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            if at >= len(data) or shift > 63:
                raise ValueError("it is no protocol buffer: a number does not end")
            byte = data[at]
            value |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = number()
        way = key & 7
        if way == 0:
            yield key >> 3, number()
            continue
        if way not in (1, 2, 5):
            raise ValueError(f"it is no protocol buffer: {way} is no way to write a value")
        length = {1: 8, 5: 4}[way] if way != 2 else number()
        if at + length > len(data):
            raise ValueError("it is no protocol buffer: it ends within a value")
        yield key >> 3, data[at : at + length]
        at += length
