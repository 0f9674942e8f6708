"""Records what sd_embed makes of weighted prompts, into sd_embed.json. It is not on PyPI: from a checkout of
https://github.com/xhinker/sd_embed at the commit below, beside diffusers and lark,

    PYTHONPATH=.:path/to/sd_embed/src python tests/runtime/golden/record_sd_embed.py

Its tokenizer is that of the tests, its text encoder a table of numbers: parsing, chunking and weighting are sd_embed's.
"""

import json
import random
import re
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
from sd_embed.embedding_funcs import get_weighted_text_embeddings_sd15
from sd_embed.prompt_parser import get_multicond_prompt_list, parse_prompt_attention
from transformers import CLIPTokenizer

from tests.checkpoints import write_tokenizer
from tests.runtime.test_prompting import table

COMMIT = "4a47f71150a22942fa606fb741a1c971d95ba56f"
TEXTS = [
    "", "normal text", "an (important) word", "(unbalanced", "un)balanced", r"\(literal\]", "(unnecessary)(parens)",
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).", "((word))", "(word:-1)", "[[less]]", "(a:b)", "(a:+.5)",
    "a: b", "(a [b) c]", "(", ")", "[]", "()", "(:2)", r"\\(a)", r"back\slash", "(nested (deep:2) [out]:0.5)",
    "a\nb (c)", "(1:2:3)", ":1.3)", "(a:1.3", "日本 (語:1.2) 🍎",
]  # fmt: skip
PROMPTS = ["a AND b", "a cat AND a dog :0.8", "a :1.2 AND b: -0.5 AND (c:2)", "ANDy bANDana", "x:3AND y", "a and b"]
PAIRS = [
    ("a (red:1.5) apple", "the (thing:-1), [dull]"),
    ("apple " * 74 + "(red the:0.5) " + "apple " * 40, "dull"),
    ("(apple:1.25)" + " red" * 74, "the " * 80),
]


def random_texts(count: int) -> list[str]:
    """Without what diffrt refuses (prompt editing, weights over 100) and what sd_embed cannot read (a number 1..2)."""
    draw, texts = random.Random(0), []
    while len(texts) < count:
        text = "".join(draw.choices(["a", "b ", "(", ")", "[", "]", ":", "\\", "1", ".5", ":2)", ":0.5)"], k=12))
        if not re.search(r"[.\d]*\.\d*\.|:[.]\)|\d{3}|:\s*[.\d]+\s*]", text):
            texts.append(text)
    return texts


def encoder(ids: torch.Tensor) -> tuple[torch.Tensor]:
    special = {49406: start, 49407: end}  # as sd_embed writes them
    return (torch.from_numpy(table([[special.get(i, i) for i in ids[0].tolist()]])),)


encoder.text_model = SimpleNamespace(encoder=SimpleNamespace(layers=[]))

with tempfile.TemporaryDirectory() as folder:
    write_tokenizer(Path(folder) / "tokenizer", "<|endoftext|>")
    tokenizer = CLIPTokenizer.from_pretrained(Path(folder) / "tokenizer")
start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
pipe = SimpleNamespace(tokenizer=tokenizer, text_encoder=encoder, device="cpu")

conditions = {}
for prompt in PROMPTS:
    [indexes], texts, _ = get_multicond_prompt_list([prompt])
    conditions[prompt] = [[texts[i], weight] for i, weight in indexes]
record = {
    "commit": COMMIT,
    "fragments": {text: parse_prompt_attention(text) for text in TEXTS + random_texts(300)},
    "conditions": conditions,
    "embeds": [
        [*pair, *(e[0].tolist() for e in get_weighted_text_embeddings_sd15(pipe, *pair, pad_last_block=True))]
        for pair in PAIRS
    ],
}
Path(__file__).with_name("sd_embed.json").write_text(json.dumps(record, ensure_ascii=False, indent=None) + "\n")
