"""CLIP's tokenizer, byte-level byte-pair encoding of lower-cased text (Radford et al. 2021, arXiv:2103.00020); T5's,
sentence pieces (Kudo & Richardson 2018, arXiv:1808.06226) as its tokenizer.json or spiece.model has them; BERT's, the
longest pieces of lower-cased words (Devlin et al. 2018, arXiv:1810.04805).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers

from diffrt.errors import BundleError
from diffrt.manifest import Manifest
from diffrt.prompting import Fragment, Text
from diffrt.sentence_pieces import read_pieces

# the first alone; else of CLIP's the next two, of BERT's the next, or of T5's the last
FILES = ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", "spiece.model")
START, END = "<|startoftext|>", "<|endoftext|>"
UNKNOWN, MASK = "[UNK]", "[MASK]"  # of BERT's, which a text may spell out
# special tokens, English contractions, words, single digits, and runs of anything else
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class Token(NamedTuple):
    id: int
    weight: float
    at: int  # which letter of the text it begins with


class Tokens(NamedTuple):
    ids: NDArray[np.int64]  # [B*chunks, max_length], those of a text one after another
    weights: NDArray[np.float32]  # the same; 1 but for tokens of weighted text
    truncated: tuple[str, ...]  # per text, the end of it that did not fit: "" where all did


class Tokenizer:
    """Texts to chunks of ids of a fixed length: start (T5 has none), as many tokens as fit, end, padding."""

    def __init__(
        self,
        folder: str | Path,
        max_length: int,
        pad: str,
        start: str | None = START,
        end: str = END,
        lowered: bool = False,
    ) -> None:
        """`lowered`: texts are read in lower case, and without space around them. Raises BundleError where the folder
        holds no usable tokenizer."""
        whole, vocabulary, merges, words, pieces = (Path(folder) / name for name in FILES)
        try:
            if whole.is_file():
                self._tokenizer = _whole(whole)
            elif words.is_file() and not vocabulary.is_file():
                self._tokenizer = _from_words(words)
            elif pieces.is_file() and not vocabulary.is_file():
                self._tokenizer = read_pieces(pieces)
            else:
                self._tokenizer = _from_parts(vocabulary, merges)
        except Exception as error:  # the library raises plain Exception
            raise BundleError(f"{folder} holds no usable tokenizer: {' '.join(str(error).split())[:200]}") from None
        # as in transformers, a padding token is one token wherever it occurs in a text: Stable Diffusion 2's is "!"
        special = [AddedToken(t, special=True, normalized=False) for t in dict.fromkeys((start, end, pad)) if t]
        for token in special:
            if self._tokenizer.token_to_id(token.content) is None:
                raise BundleError(f"{folder}: the vocabulary lacks the token {token.content!r}")
        self._tokenizer.add_special_tokens(special)
        self._start = [] if start is None else [self._tokenizer.token_to_id(start) or 0]
        self._end, self._pad = (self._tokenizer.token_to_id(t) or 0 for t in (end, pad))
        self.max_length, self._lowered = max_length, lowered

    @classmethod
    def from_bundle(cls, root: str | Path, manifest: Manifest, encoder: str = "text_encoder") -> "Tokenizer":
        entry = manifest.tokenizers[encoder]
        for name in FILES:
            file = Path(root) / entry["folder"] / name
            if file.exists() and f"{entry['folder']}/{name}" not in manifest.files:
                raise BundleError(f"{file} is not in the manifest, so it was not checked: remove it")
        return cls.of(Path(root), entry)

    @classmethod
    def of(cls, root: Path, entry: Mapping[str, Any]) -> "Tokenizer":
        """As a manifest's entry describes it."""
        return cls(root / entry["folder"], **{key: value for key, value in entry.items() if key != "folder"})

    @property
    def room(self) -> int:
        """Tokens of text in a chunk."""
        return self.max_length - len(self._start) - 1

    def chunks(self, texts: Sequence[Text]) -> int:
        """How many chunks the longest text fills; at least 1."""
        return max([1, *(-(-len(self._read(text)[1]) // self.room) for text in texts)])

    def __call__(self, texts: Sequence[Text], chunks: int = 1) -> Tokens:
        """Every text fills as many chunks, the last ones with nothing if need be."""
        shape = (len(texts), chunks, self.max_length)
        ids, weights, truncated = np.full(shape, self._pad, np.int64), np.ones(shape, np.float32), []
        first = len(self._start)
        ids[:, :, :first] = self._start
        for row, row_weights, text in zip(ids, weights, texts, strict=True):
            letters, tokens = self._read(text)
            for chunk in range(chunks):
                part = tokens[chunk * self.room :][: self.room]
                row[chunk, first : first + len(part) + 1] = [*(token.id for token in part), self._end]
                row_weights[chunk, first : first + len(part)] = [token.weight for token in part]
            rest = tokens[chunks * self.room :]
            truncated.append(letters[rest[0].at :] if rest else "")
        return Tokens(ids.reshape(-1, self.max_length), weights.reshape(-1, self.max_length), tuple(truncated))

    def _read(self, text: Text) -> tuple[str, list[Token]]:
        """Its letters, without what weighs them, and its tokens."""
        letters, tokens = "", []
        fragments = (Fragment(text, 1.0),) if isinstance(text, str) else text
        for fragment in _lower(fragments) if self._lowered else fragments:
            encoding = self._tokenizer.encode(fragment.text, add_special_tokens=False)
            begins = (len(letters) + begin for begin, _ in encoding.offsets)
            tokens += [Token(id, fragment.weight, at) for id, at in zip(encoding.ids, begins, strict=True)]
            letters += fragment.text
        return letters, tokens


def _lower(fragments: Sequence[Fragment]) -> list[Fragment]:
    """In lower case, and without space at both ends."""
    texts = [fragment.text.lower() for fragment in fragments]
    texts[0] = texts[0].lstrip()
    texts[-1] = texts[-1].rstrip()
    return [Fragment(text, fragment.weight) for text, fragment in zip(texts, fragments, strict=True)]


def _whole(file: Path) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _from_words(words: Path) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.WordPiece.from_file(str(words), unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    there = [token for token in (UNKNOWN, MASK) if tokenizer.token_to_id(token) is not None]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in there])
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
