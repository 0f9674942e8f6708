"""spiece.model is read as the SentencePiece library reads it."""

import json
import lzma
from pathlib import Path

import pytest

from diffrt.components.tokenizer import Tokenizer
from diffrt.errors import BundleError
from diffrt.prompting import Fragment

GOLDEN = Path(__file__).parent / "golden"
MODEL = lzma.decompress((GOLDEN / "spiece.model.xz").read_bytes())
EXPECTED = json.loads((GOLDEN / "sentence_pieces.json").read_text("utf-8"))["ids"]
T5 = {"pad": "<pad>", "start": None, "end": "</s>"}


def tokenizer(folder, model=MODEL, **options):
    (folder / "spiece.model").write_bytes(model)
    return Tokenizer(folder, 60, **T5, **options)


@pytest.mark.parametrize("text", EXPECTED)
def test_equals_the_library(tmp_path, text):
    ids = EXPECTED[text]
    (got,) = tokenizer(tmp_path)([text]).ids.tolist()
    assert got == [*ids, 1] + [0] * (59 - len(ids))


def test_special_tokens_in_a_text(tmp_path):
    (got,) = tokenizer(tmp_path)(["red</s><pad>"]).ids.tolist()
    assert got[1:4] == [1, 0, 1]


def test_in_lower_case(tmp_path):
    read, plain = tokenizer(tmp_path, lowered=True), tokenizer(tmp_path)
    expected = plain(["a red apple"]).ids.tolist()
    assert read(["\t A Red APPLE "]).ids.tolist() == expected != plain(["A Red APPLE"]).ids.tolist()
    weighted = read([(Fragment("  A ", 1.0), Fragment(" RED", 1.3), Fragment(" Apple ", 1.0))])
    assert weighted.ids.tolist() == expected
    assert weighted.weights[0, 1].item() == pytest.approx(1.3)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (MODEL[:-1], "damaged, or another kind"),
        (b"\x80" * 20, "damaged, or another kind"),
        (b"\x0b", "damaged, or another kind"),
        (b"\x08\x01", "field 1 has the wire type 0"),
        (b"\x0a\x05\x0a\x01a\x18\x04" + MODEL, "piece 0, 'a', of kind 4"),
        (b"\x0a\x00" + MODEL, "piece 0, '', of kind 1"),
        (b"\x0a\x03\x0a\x01a", "no piece for what it does not know"),
        (MODEL + b"\x1a\x06\x12\x04" + bytes(4), "damaged table of letters"),
        (MODEL + b"\x12\x02\x18\x02", "trained by algorithm 2"),
        (b"", "no piece for what it does not know"),
    ],
)
def test_what_is_none(tmp_path, model, says):
    with pytest.raises(BundleError, match=says):
        tokenizer(tmp_path, model)
