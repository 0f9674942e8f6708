"""Trains a small SentencePiece model in T5's layout, and records what the library makes of texts: spiece.model.xz and
sentence_pieces.json. With sentencepiece 0.2.3 from PyPI,

    python tests/runtime/golden/record_sentence_pieces.py
"""

import io
import json
import lzma
import random
from pathlib import Path

import sentencepiece

HERE = Path(__file__).parent
WORDS = (
    "a", "an", "the", "red", "green", "blue", "apple", "apples", "castle", "castles", "on", "of", "in", "very", "small",
    "large", "old", "night", "day", "sea", "lighthouse",
)  # fmt: skip
TEXTS = [
    "", " ", "a red apple", "a  red\tapple \n on the sea", "unheard-of words, 12 of them!", "lighthouses", "(castle)",
    "e\u0301cole école ½ ﬁne ²", "日本語 の テキスト", "🍎 an apple 🍎🍎", "a\u00a0b\u3000c\u200bd", "▁a▁red",
    "İstanbul straße ǅ", "a\x07b\x00c", "apple " * 20,
]  # fmt: skip


def main() -> None:
    rng = random.Random(0)
    sentences = [" ".join(rng.choices(WORDS, k=rng.randint(3, 9))) for _ in range(2000)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=model, vocab_size=45, model_type="unigram",
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    (HERE / "spiece.model.xz").write_bytes(lzma.compress(model.getvalue(), preset=9))
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ids = {text: processor.encode(text) for text in TEXTS}
    record = {"sentencepiece": sentencepiece.__version__, "ids": ids}
    (HERE / "sentence_pieces.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
