"""A small byte-level BPE in CLIP's form, learned from the captions.

    python tokenizer.py       # writes work/emoji/tokenizer/

Byte-pair encoding of words (Sennrich et al. 2016) over GPT-2's printable byte alphabet; the last piece of a word ends
in `</w>`, as in CLIP. The vocabulary is the 256 bytes, the same with `</w>`, the merges in order, then the two special
tokens.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter

from common import OUT
from data import COLOURS, SYNONYMS, load

MERGES, LENGTH = 1534, 32  # 2,048 tokens; prompts are cut at 32 tokens, start and end included
START, END = "<|startoftext|>", "<|endoftext|>"


def byte_letters() -> list[str]:
    """The 256 printable stand-ins for bytes, in the order CLIP's vocabulary has them: the printable ones first."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]


def learn(words: Counter[str], merges: int) -> list[tuple[str, str]]:
    """The most frequent pair, merged, again and again; ties go to the pair that sorts first."""
    pieces = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    learned: list[tuple[str, str]] = []
    while len(learned) < merges:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in pieces.items():
            for pair in itertools.pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = min(pairs, key=lambda p: (-pairs[p], p))
        learned.append(best)
        for parts in pieces.values():
            for i in range(len(parts) - 2, -1, -1):
                if i + 1 < len(parts) and (parts[i], parts[i + 1]) == best:
                    parts[i : i + 2] = ["".join(best)]
    return learned


def corpus() -> Counter[str]:
    """Words of every name, alias, keyword and colour, names counting most."""
    words: Counter[str] = Counter()
    for p in (p for p in load()[0] if p.style == "3d"):  # the flat ones have the same words
        for text, count in [(p.name, 10), *((a, 10) for a in p.aliases), *((t, 1) for t in p.tags)]:
            for word in "".join(c if c.isalpha() and c.isascii() else " " for c in text.lower()).split():
                words[word] += count
    for colour in [
        *COLOURS,
        *(s for many in SYNONYMS.values() for s in many),
        "a",
        "an",
        "of",
        "emoji",
        "the",
        "and",
        "with",
    ]:
        words[colour] += 1000
    return words


def main() -> None:
    merges = learn(corpus(), MERGES)
    letters = byte_letters()
    vocabulary = [*letters, *(c + "</w>" for c in letters), *(a + b for a, b in merges), START, END]
    assert len(set(vocabulary)) == len(vocabulary), "a merge made the same token twice"
    folder = OUT / "tokenizer"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(
        json.dumps({t: i for i, t in enumerate(vocabulary)}, ensure_ascii=False), encoding="utf-8"
    )
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": LENGTH,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
        **special,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    print(len(vocabulary), "tokens")


if __name__ == "__main__":
    main()
