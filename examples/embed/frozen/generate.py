"""One picture from words, with no Python to install: PyInstaller packs this file, ONNX Runtime and the model.

    pip install pyinstaller onnxruntime
    pyinstaller --onefile --name draw --add-data "DEST/*:model" generate.py
    dist/draw "a red apple" apple.png --seed 7

DEST is what `diffrt export SOURCE DEST --form single` wrote. The script itself needs ONNX Runtime and NumPy alone:

    python generate.py "a red apple" apple.png --model DEST
"""

import argparse
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import onnxruntime
from clip_bpe import ClipTokenizer

PACKED = Path(getattr(sys, "_MEIPASS", Path(__file__).parent)) / "model"  # PyInstaller unpacks it there
KIND = "text_to_image, ids, scan"  # task, --tokenizer and --loop
FIX = "write one with diffrt export SOURCE DEST --form single"


class Failure(Exception):
    """One line for the user."""


def load(folder: Path) -> onnxruntime.InferenceSession:
    for name in ("pipeline.onnx", "vocab.json", "merges.txt"):
        if not (folder / name).is_file():
            raise Failure(f"{folder / name} is missing: {FIX}, and give its folder with --model")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors, no hints on optimization
    try:
        session = onnxruntime.InferenceSession(folder / "pipeline.onnx", options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own kinds have no common parent
        raise Failure(f"{folder / 'pipeline.onnx'} is damaged, or newer than this ONNX Runtime: {error}") from None
    facts = session.get_modelmeta().custom_metadata_map
    if not facts.get("generator", "").startswith("diffrt "):
        raise Failure(f"{folder / 'pipeline.onnx'} is no single graph of diffrt: {FIX}")
    kind = ", ".join(facts.get(key, "?") for key in ("task", "tokenizer", "loop"))
    if kind != KIND:
        raise Failure(f"the file is of the kind {kind!r}, this program is for {KIND!r}")
    return session


def draw(session: onnxruntime.InferenceSession, folder: Path, args: argparse.Namespace) -> np.ndarray:  # [H,W,3] u8
    facts = session.get_modelmeta().custom_metadata_map
    steps = facts["default_steps"] if args.steps is None else args.steps
    if str(steps) not in facts["steps"].split(","):
        raise Failure(f"{steps} steps are not in this file: give one of {facts['steps']}")
    tokenizer = ClipTokenizer(folder, int(facts["tokens"]), int(facts["pad_token"]))
    if tokenizer.ids["<|startoftext|>"] != int(facts["start_token"]):
        raise Failure(f"{folder / 'vocab.json'} is not this model's: take the one beside it")
    (ids, cut), (negative, _) = tokenizer.row(args.prompt), tokenizer.row(args.negative)
    if cut:
        print(f"note: the last {cut} tokens of the prompt do not fit and are left out", file=sys.stderr)
    feeds = {
        "input_ids": np.array([ids]),
        "negative_ids": np.array([negative]),
        "seed": np.array([args.seed]),
        "guidance_scale": np.array(facts["default_guidance"] if args.guidance is None else args.guidance, "f4"),
        "num_inference_steps": np.array(int(steps)),
    }
    if any(given.name == "start" for given in session.get_inputs()):  # exported with --inputs segments: all in one
        latents = map(int, facts["latents"].split(","))
        feeds |= {"start": np.array(0), "count": np.array(2**62), "slots_before": np.zeros((1, 1, *latents), "f4")}
    return session.run(["images"], feeds)[0][0]


def png(rgb: np.ndarray) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, _ = rgb.shape
    rows = np.pad(rgb.reshape(height, -1), ((0, 0), (1, 0)))  # each begins with its filter: 0, none
    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws a picture.")
    parser.add_argument("prompt")
    parser.add_argument("output", type=Path, help="a .png file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="the model's own if left out")
    parser.add_argument("--guidance", type=float, help="the model's own if left out")
    parser.add_argument("--negative", default="", help="what to keep out")
    parser.add_argument("--model", type=Path, default=PACKED, help="a folder; the one packed in if left out")
    args = parser.parse_args()
    try:
        args.output.write_bytes(png(draw(load(args.model), args.model, args)))
    except (Failure, OSError) as error:
        sys.exit(f"draw: {error}")


if __name__ == "__main__":
    main()
