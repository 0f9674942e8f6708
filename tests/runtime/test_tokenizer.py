"""The tokenizer equals transformers' CLIPTokenizer, for both forms of a tokenizer folder."""

import json
import shutil

import numpy as np
import pytest
from transformers import CLIPTokenizer

from diffrt.bundle import Bundle
from diffrt.components.tokenizer import Tokenizer
from diffrt.errors import BundleError
from tests.checkpoints import write_tokenizer

TEXTS = [
    "", " ", "a red apple", "  A  RED\tApple\n\n", "don't we'll I'm they've he'd it's you're 'sup",
    "3,000 km/h!!! (very) fast...", "e\u0301cole école ÉCOLE", "\u212b \ufb01 ½ ²", "日本語のテキスト",
    "مرحبا", "🍎👩\u200d🚀🏳️\u200d🌈",
    "a\u00a0b\u3000c\u200bd", "<|endoftext|> in the <|startoftext|> middle", "<|EndOfText|>", "wow! such! pad!",
    "under_score-dash", "İstanbul straße ǅ", "\x00\x07 bell", "a" * 500, "apple " * 100, "x, " * 200, "🍎 " * 60,
    "the\r\nlast", "１２３ ٣", "\ud7ff\ue000", "'", "''s", "!" * 80,
]  # fmt: skip


@pytest.fixture(scope="module", params=["<|endoftext|>", "!"])
def folders(request, tmp_path_factory):
    """(vocab.json and merges.txt, tokenizer.json, pad)"""
    old, new = (tmp_path_factory.mktemp("tokenizer") / name for name in ("old", "new"))
    write_tokenizer(old, request.param)
    CLIPTokenizer.from_pretrained(old).save_pretrained(new)
    assert not (new / "merges.txt").exists()
    return old, new, request.param


@pytest.mark.parametrize("form", [0, 1], ids=["vocab+merges", "tokenizer.json"])
def test_equals_transformers(folders, form):
    folder, pad = folders[form], folders[2]
    reference = CLIPTokenizer.from_pretrained(folder)
    expected = reference(TEXTS, padding="max_length", max_length=77, truncation=True, return_tensors="np")["input_ids"]
    ids = Tokenizer(folder, 77, pad)(TEXTS).ids
    assert ids.dtype == np.int64
    for text, row, wanted in zip(TEXTS, ids, expected, strict=True):
        assert row.tolist() == wanted.tolist(), text


def test_random_text_equals_transformers(folders):
    rng = np.random.default_rng(0)
    ranges = [(32, 127), (0xA0, 0x250), (0x370, 0x600), (0x2000, 0x2100), (0x3040, 0x3100), (0x1F300, 0x1F600)]
    texts = []
    for _ in range(200):
        low, high = ranges[rng.integers(len(ranges))]
        letters = np.concatenate([rng.integers(low, high, 20), rng.integers(32, 127, 10)])
        texts.append("".join(map(chr, rng.permutation(letters))))
    expected = CLIPTokenizer.from_pretrained(folders[0])(texts, padding="max_length", max_length=77, truncation=True)
    assert Tokenizer(folders[0], 77, folders[2])(texts).ids.tolist() == expected["input_ids"]


def test_what_was_cut_off_is_reported(folders):
    tokenizer = Tokenizer(folders[0], 77, folders[2])
    fits, long = "apple " * 75, "apple " * 75 + "Red APPLE tail"
    assert tokenizer([fits.strip(), long, ""]).truncated == ("", "Red APPLE tail", "")


def test_other_lengths(folders):
    ids = Tokenizer(folders[0], 8, folders[2])(["apple " * 20, "apple"]).ids
    assert ids.shape == (2, 8)
    assert ids[0, 0] == ids[1, 0]
    assert ids[0, -1] == ids[1, 2]  # the end token


def unusable(folder, says="no usable tokenizer", pad="!"):
    with pytest.raises(BundleError, match=says) as caught:
        Tokenizer(folder, 77, pad)
    assert "\n" not in str(caught.value)


def test_unusable_folders(folders, tmp_path):
    unusable(folders[0], "lacks the token 'no-such-token'", "no-such-token")
    unusable(tmp_path)
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    unusable(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\nx y\n")
    unusable(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0"}))
    unusable(tmp_path)


def test_files_that_were_not_checked_are_not_read(sd1_bundle, tmp_path):
    copy = shutil.copytree(sd1_bundle, tmp_path / "bundle")
    manifest = Bundle.open(copy).manifest
    assert Tokenizer.from_bundle(copy, manifest)(["apple"]).ids[0, 1] > 0
    (copy / "tokenizer" / "tokenizer.json").write_text("slipped in")
    with pytest.raises(BundleError, match=r"tokenizer\.json is not in the manifest"):
        Tokenizer.from_bundle(copy, manifest)
