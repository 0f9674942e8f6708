"""The examples' own tokenizers against diffrt's, which is the `tokenizers` library set up as transformers does it."""

import importlib.util
import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from diffrt.components.tokenizer import Tokenizer
from exporters.sources.clip_tokenizer import write_tokenizer

EXAMPLES = Path(__file__).parents[2] / "examples" / "embed"
FOLDER = Path(__file__).parents[2] / "diffrt" / "bundles" / "emoji" / "tokenizer"
ENCODE = """
import { readFileSync } from "node:fs";
const { ClipTokenizer } = await import(process.argv[1]);
const [vocabulary, merges] = process.argv.slice(2, 4).map((file) => readFileSync(file, "utf8"));
const tokenizer = new ClipTokenizer(vocabulary, merges, ...process.argv.slice(4, 6).map(Number));
const rows = JSON.parse(readFileSync(0, "utf8")).map((text) => tokenizer.row(text));
console.log(JSON.stringify(rows.map(({ ids, cut }) => [Array.from(ids, Number), cut])));
"""
PLAIN = [
    "",
    " ",
    "a red apple",
    "  A   Red\t\n APPLE\r\n",
    "it's we're I'll you'd they've I'm don't 'SOS 'LLAMA ''s '",
    "a1b22c333 4.5e-6 #1!",
    "hello!!! (what?) [no] {yes} <b> a_b c-d e/f",
    "<|endoftext|>",
    "a<|startoftext|>b <|endoftext|><|endoftext|>",
    "<|ENDOFTEXT|>!! !<|StartOfText|> <|endoftext| <|other|> <|",
    "x" * 300,
    "one two three four five six seven eight nine ten " * 20,
    "\x01\x02 control \x7f",
    "tab\vand\ffeed",
]
WIDE = [
    "café CAFÉ naïve ÀÉÎÕÜ",
    "ПРИВЕТ мир Ελλάδα ΟΔΟΣ",
    "日本語 猫 한국어",
    "🍎 ❤️ 👩‍👩‍👧 🇫🇷",
    "“quotes” – dash … €5",
    "no\u00a0break\u2003em\u3000wide\u0085next\u2028line",
]
ODD = [  # what a C library's letters and digits do not tell
    "e\u0301 cafe\u0301 \u1112\u1161\u11ab A\u030a \u212b",
    "½ ² ① ٣ १ Ⅷ",
    "İstanbul ΑΣ ΑΣ. ß ẞ Ǆ ﬁ",
    "\ufeffmark zero\u200bwidth \u180e",
    "𝒜𝓑 𐐀 \U0001f9e0",
]


def random_texts(alphabet: str, count: int = 300) -> list[str]:
    draw = random.Random(5)
    return ["".join(draw.choices(alphabet, k=draw.randrange(40))) for _ in range(count)]


ASCII = "".join(map(chr, range(1, 128)))
ANY = ASCII + "".join(WIDE + ODD) + "<|endoftext|>"


class Vocabulary(NamedTuple):
    folder: Path
    length: int
    pad: str

    @property
    def numbers(self) -> tuple[str, str]:
        """The length, and the id of padding."""
        return str(self.length), str(json.loads((self.folder / "vocab.json").read_text("utf-8"))[self.pad])

    def expected(self, texts: list[str]) -> list[list]:
        tokens = Tokenizer(*self)
        read = [len(tokens._read(text)[1]) for text in texts]
        return [[ids, max(0, n - self.length + 2)] for ids, n in zip(tokens(texts).ids.tolist(), read, strict=True)]


@pytest.fixture(scope="module", params=["default", "sd1", "sd2"])
def vocabulary(request, tmp_path_factory):
    """The default model's, and CLIP's as Stable Diffusion 1 and 2 use it."""
    if request.param == "default":
        return Vocabulary(FOLDER, 32, "<|endoftext|>")
    pad = "<|endoftext|>" if request.param == "sd1" else "!"
    folder = tmp_path_factory.mktemp(request.param) / "tokenizer"
    write_tokenizer(folder, pad)
    return Vocabulary(folder, 77, pad)


HARNESS = r"""
#include <locale.h>
#include "clip_bpe.h"
int main(int, char** arguments) {
    static char text[1 << 20], *end = text;
    Clip clip;
    int length = atoi(arguments[2]);
    int64_t* ids = malloc(length * sizeof *ids);
    if (!setlocale(LC_CTYPE, "C.UTF-8") || !clip_load(&clip, arguments[1], atoi(arguments[3]))) return 1;
    fread(text, 1, sizeof text - 1, stdin);
    while (memcmp(end, "\xff", 2)) {  // texts end with a zero, the last one is \xff
        printf("%d", clip_encode(&clip, end, ids, length));
        for (int i = 0; i < length; i++) printf(" %d", (int)ids[i]);
        printf("\n");
        end += strlen(end) + 1;
    }
    free(ids);
    clip_free(&clip);
}
"""


@pytest.fixture(scope="module")
def c_program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("c")
    (folder / "harness.c").write_text(HARNESS)
    flags = ["-std=gnu2x", "-Wall", "-Wextra", "-fsanitize=undefined,address", f"-I{EXAMPLES / 'c'}"]
    subprocess.run(["gcc", *flags, folder / "harness.c", "-o", folder / "harness"], check=True, timeout=60)
    return folder / "harness"


@pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")
def test_c(c_program, vocabulary):
    texts = PLAIN + WIDE + random_texts(ASCII)
    data = b"".join(text.encode() + b"\0" for text in texts) + b"\xff\0"
    command = [c_program, vocabulary.folder / "merges.txt", *vocabulary.numbers]
    done = subprocess.run(command, input=data, capture_output=True, timeout=60, check=True)
    rows = [[int(number) for number in line.split()] for line in done.stdout.decode().splitlines()]
    for text, (cut, *ids), want in zip(texts, rows, vocabulary.expected(texts), strict=True):
        assert [ids, cut] == want, repr(text)


@pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")
def test_c_says_what_is_not_utf8(c_program):
    command = [c_program, FOLDER / "merges.txt", "32", "0"]
    done = subprocess.run(command, input=b"caf\xe9\0\xff\0", capture_output=True, timeout=60, check=True)
    assert done.stdout.startswith(b"-1 ")


@pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")
def test_javascript(vocabulary):
    texts = PLAIN + WIDE + ODD + random_texts(ASCII) + random_texts(ANY)
    files = [vocabulary.folder / name for name in ("vocab.json", "merges.txt")]
    script = EXAMPLES / "js" / "clip_bpe.mjs"
    command = ["node", "--input-type=module", "-e", ENCODE, script, *files, *vocabulary.numbers]
    done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, timeout=60, check=True)
    for text, got, want in zip(texts, json.loads(done.stdout), vocabulary.expected(texts), strict=True):
        assert got == want, repr(text)


def test_python(vocabulary):
    file = importlib.util.spec_from_file_location("clip_bpe", EXAMPLES / "frozen" / "clip_bpe.py")
    module = importlib.util.module_from_spec(file)
    file.loader.exec_module(module)
    tokenizer = module.ClipTokenizer(vocabulary.folder, *map(int, vocabulary.numbers))
    texts = PLAIN + WIDE + ODD + random_texts(ASCII) + random_texts(ANY)
    for text, want in zip(texts, vocabulary.expected(texts), strict=True):
        assert list(tokenizer.row(text)) == want, repr(text)
