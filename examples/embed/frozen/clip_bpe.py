"""CLIP's tokenizer in plain Python: lower-cased text to the ids that a Stable Diffusion text encoder takes."""

import json
import re
import unicodedata
from itertools import pairwise
from pathlib import Path

START, END = "<|startoftext|>", "<|endoftext|>"
# English contractions; a special token in the wrong case ends words, and is three of them
APART = re.compile(r"<\|(?:start|end)oftext\|>|'(?:s|t|re|ve|m|ll|d)")
RUN = re.compile(r"L+|N|O+")  # of letters' kinds: letters, a digit, anything else


def kind(letter: str) -> str:
    if "\t" <= letter <= "\r" or letter == "\x85":
        return " "
    category = unicodedata.category(letter)[0]
    return {"L": "L", "N": "N", "Z": " "}.get(category, "O")


def words(text: str) -> list[str]:
    kinds, found, at = "".join(map(kind, text)), [], 0
    while at < len(text):
        part = APART.match(text, at) or RUN.match(kinds, at)
        if part:
            word = text[at : part.end()]
            found += [word[:2], word[2:-2], word[-2:]] if word in (START, END) else [word]
        at = part.end() if part else at + 1
    return found


def byte_letters() -> list[str]:
    """Each of the 256 bytes as one visible letter: itself where it prints, else the next one from U+0100 on."""
    others = iter(range(256, 512))
    prints = [33 <= b < 127 or (161 <= b < 256 and b != 173) for b in range(256)]
    return [chr(b if prints[b] else next(others)) for b in range(256)]


class ClipTokenizer:
    def __init__(self, folder: Path, length: int, pad: int) -> None:
        """Reads vocab.json and merges.txt. `pad` is the id that fills a row up."""
        self.ids = json.loads((folder / "vocab.json").read_text("utf-8"))
        lines = (folder / "merges.txt").read_text("utf-8").split("\n")
        merges = (line for line in lines if line and not line.startswith("#version"))
        self.ranks = {tuple(line.split(" ")): rank for rank, line in enumerate(merges)}
        self.letters, self.length, self.pad = byte_letters(), length, pad
        padding = next(token for token, i in self.ids.items() if i == pad)
        self.special = re.compile("(" + "|".join(map(re.escape, (START, END, padding))) + ")")

    def row(self, text: str) -> tuple[list[int], int]:
        """Start, as many tokens as fit, end, padding; and how many tokens did not fit."""
        parts = self.special.split(text)  # every second one is special
        tokens = [i for n, part in enumerate(parts) for i in ([self.ids[part]] if n % 2 else self.plain(part))]
        room = self.length - 2
        row = [self.ids[START], *tokens[:room], self.ids[END]]
        return row + [self.pad] * (self.length - len(row)), max(0, len(tokens) - room)

    def plain(self, text: str) -> list[int]:
        lower = "".join(letter.lower() for letter in unicodedata.normalize("NFC", text))  # no closing sigma
        return [self.ids.get(symbol, self.ids[END]) for word in words(lower) for symbol in self.merge(word)]

    def merge(self, word: str) -> list[str]:
        """A word's bytes, the pair of lowest rank joined over and over."""
        symbols = [self.letters[byte] for byte in word.encode()]
        symbols[-1] += "</w>"
        while ranked := [(self.ranks[p], i) for i, p in enumerate(pairwise(symbols)) if p in self.ranks]:
            _, at = min(ranked)
            symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
        return symbols
