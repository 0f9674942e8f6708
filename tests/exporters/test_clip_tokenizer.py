"""The tokenizer files written for single-file checkpoints are CLIP's."""

import json

import pytest
from transformers import CLIPTokenizer

from diffrt.components.tokenizer import Tokenizer
from exporters.sources.clip_tokenizer import END, VOCABULARY, write_tokenizer

# Ids that CLIP's own tokenizer gives (openai-clip 1.0.1), without the start and end tokens.
KNOWN = {
    "a photo of a cat": [320, 1125, 539, 320, 2368],
    "hello world": [3306, 1002],
    "A red apple, 4k; isn't it?": [320, 736, 3055, 267, 275, 330, 282, 2923, 713, 585, 286],
}
TEXTS = [
    "", " ", "a", "a photograph of an astronaut riding a horse", "Ärger im Café, naïve façade", "猫の写真",
    "🦊 fox 🦊🦊", "isn't it? they'll've", "1234567890 4k 8K", "(masterpiece:1.2), [best|quality]",
    "tab\tand\nnew   line", "hello world!",
    "<|endoftext|> in the middle", "snake_case camelCase --flags", "word " * 100, "\u200dzero\u00a0width", "ﬁ ligature",
]  # fmt: skip


@pytest.fixture(scope="module", params=[END, "!"])
def written(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip") / "tokenizer"
    write_tokenizer(folder, request.param)
    return folder, request.param


def test_size(written):
    folder, _ = written
    words = json.loads((folder / "vocab.json").read_text("utf-8"))
    assert sorted(words.values()) == list(range(VOCABULARY))
    assert (words["!"], words["!</w>"], words["the</w>"]) == (0, 256, 518)
    assert (words["<|startoftext|>"], words[END]) == (49406, 49407)


@pytest.mark.parametrize("text", KNOWN)
def test_known_ids(written, text):
    folder, pad = written
    ids = Tokenizer(folder, 77, pad)([text]).ids[0]
    assert ids[: len(KNOWN[text]) + 2].tolist() == [49406, *KNOWN[text], 49407]


@pytest.mark.parametrize("text", TEXTS)
def test_transformers_agrees(written, text):
    folder, pad = written
    theirs = CLIPTokenizer.from_pretrained(folder)
    assert (theirs.pad_token, theirs.model_max_length) == (pad, 77)
    expected = theirs(text, padding="max_length", truncation=True).input_ids
    assert Tokenizer(folder, 77, pad)([text]).ids[0].tolist() == expected
