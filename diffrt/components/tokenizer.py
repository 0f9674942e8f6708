"""CLIP's tokenizer: byte-level byte-pair encoding of lower-cased text (Radford et al. 2021, arXiv:2103.00020)."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers

from diffrt.errors import BundleError
from diffrt.manifest import Manifest

FILES = ("tokenizer.json", "vocab.json", "merges.txt")  # the first alone, or the other two
START, END = "<|startoftext|>", "<|endoftext|>"
# special tokens, English contractions, words, single digits, and runs of anything else
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class Tokens(NamedTuple):
    ids: NDArray[np.int64]  # [B, max_length]
    truncated: tuple[str, ...]  # per text, the end of it that did not fit: "" where all did


class Tokenizer:
    """Texts to ids of a fixed length: start, as many tokens as fit, end, padding."""

    def __init__(self, folder: str | Path, max_length: int, pad: str) -> None:
        """Raises BundleError where the folder holds no usable tokenizer."""
        whole, vocabulary, merges = (Path(folder) / name for name in FILES)
        try:
            self._tokenizer = _whole(whole) if whole.is_file() else _from_parts(vocabulary, merges)
        except Exception as error:  # the library raises plain Exception
            raise BundleError(f"{folder} holds no usable tokenizer: {' '.join(str(error).split())[:200]}") from None
        # as in transformers, a padding token is one token wherever it occurs in a text: Stable Diffusion 2's is "!"
        special = [AddedToken(t, special=True, normalized=False) for t in dict.fromkeys((START, END, pad))]
        for token in special:
            if self._tokenizer.token_to_id(token.content) is None:
                raise BundleError(f"{folder}: the vocabulary lacks the token {token.content!r}")
        self._tokenizer.add_special_tokens(special)
        self._start, self._end, self._pad = (self._tokenizer.token_to_id(t) or 0 for t in (START, END, pad))
        self.max_length = max_length

    @classmethod
    def from_bundle(cls, root: str | Path, manifest: Manifest) -> "Tokenizer":
        entry = manifest.tokenizer
        for name in FILES:
            file = Path(root) / entry["folder"] / name
            if file.exists() and f"{entry['folder']}/{name}" not in manifest.files:
                raise BundleError(f"{file} is not in the manifest, so it was not checked: remove it")
        return cls(Path(root) / entry["folder"], entry["max_length"], entry["pad"])

    def __call__(self, texts: Sequence[str]) -> Tokens:
        room = self.max_length - 2
        ids = np.full((len(texts), self.max_length), self._pad, np.int64)
        truncated = []
        for row, text in zip(ids, texts, strict=True):
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
            kept = [self._start, *encoding.ids[:room], self._end]
            row[: len(kept)] = kept
            truncated.append(text[encoding.offsets[room][0] :] if len(encoding.ids) > room else "")
        return Tokens(ids, tuple(truncated))


def _whole(file: Path) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _from_parts(vocabulary: Path, merges: Path) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(
        models.BPE.from_file(
            str(vocabulary), str(merges), continuing_subword_prefix="", end_of_word_suffix="</w>", unk_token=END
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return tokenizer
