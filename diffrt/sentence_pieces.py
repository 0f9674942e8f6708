"""spiece.model, the file of the SentencePiece library (Kudo & Richardson 2018, arXiv:1808.06226), which T5's tokenizer
is in where a folder has no tokenizer.json.

It is a protocol buffer: a message is fields, each a number, the way it is written, and a value. What is read of it:

    1  a piece, one for each id: 1 text, 2 score (float32), 3 kind
    2  how it was trained: 3 algorithm
    3  how texts are normalised: 2 a table of letters
"""

import struct
from pathlib import Path

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from diffrt.protobuf import BYTES, FIXED32, VARINT, Messages, text

LARGEST = 16 << 20  # bytes
UNIGRAM = 1  # the algorithm
NORMAL, UNKNOWN, CONTROL = 1, 2, 3  # kinds of pieces
SPACE, PROBE = "▁", "A a\u00fc\uff21 \u4e00"
MOST_PIECES = 1 << 20  # T5 has 32,000


def read_pieces(file: Path) -> tokenizers.Tokenizer:
    """Words at white space, each with a mark before it, are what pieces are made of. Raises ValueError."""
    if file.stat().st_size > LARGEST:
        raise ValueError(f"{file.name} has {file.stat().st_size} bytes; at most {LARGEST} are read")
    messages = Messages(5 * MOST_PIECES)
    pieces: list[tuple[str, float]] = []
    unknown, algorithm, letters = None, UNIGRAM, b""
    for number, value in messages.fields(memoryview(file.read_bytes()), {1: BYTES, 2: BYTES, 3: BYTES}):
        if number == 1:
            piece, score, kind = _piece(messages, value)
            if kind not in (NORMAL, UNKNOWN, CONTROL) or not piece or len(pieces) == MOST_PIECES:
                what = f"piece {len(pieces)}, {piece!r}, of kind {kind}"
                raise ValueError(
                    f"{file.name}: {what}: at most {MOST_PIECES} are read, of the kinds 1 to 3 with a text"
                )
            unknown = len(pieces) if kind == UNKNOWN else unknown
            pieces.append((piece, score))
        elif number == 2:
            algorithm = dict(messages.fields(value, {3: VARINT})).get(3, UNIGRAM)
        else:
            letters = bytes(dict(messages.fields(value, {2: BYTES})).get(2, b""))
    if algorithm != UNIGRAM:
        raise ValueError(f"{file.name} was trained by algorithm {algorithm}: {UNIGRAM}, unigrams, is implemented")
    if unknown is None:
        raise ValueError(f"{file.name} has no piece for what it does not know")
    tokenizer = tokenizers.Tokenizer(models.Unigram(pieces, unknown))
    if letters:
        tokenizer.normalizer = normalizers.Precompiled(letters)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(SPACE, "always")]
    )
    try:
        tokenizer.encode(PROBE)
    except BaseException as error:  # a table that points outside itself is a panic, which is no Exception
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"{file.name} has a damaged table of letters") from None
    return tokenizer


def _piece(messages: Messages, data: memoryview) -> tuple[str, float, int]:
    piece, score, kind = "", 0.0, NORMAL
    for number, value in messages.fields(data, {1: BYTES, 2: FIXED32, 3: VARINT}):
        if number == 1:
            piece = text(value)
        elif number == 2:
            (score,) = struct.unpack("<f", value)
        else:
            kind = value
    return piece, score, kind
