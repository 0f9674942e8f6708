"""What the tests of all hosts share: the examples' folder, the pictures to draw, how to run and to compare."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from diffrt.components.tokenizer import Tokenizer

EXAMPLES = Path(__file__).parents[2] / "examples" / "embed"


class Case(NamedTuple):
    prompt: str
    seed: int
    steps: int = 4
    guidance: float = 3.0
    negative: str = ""


CASES = [
    Case("a red apple", 7),
    Case("A  blue HEART, it's big!", 123456789012, 8, 2.5, "a leaf"),
    Case("café ☕", 0, 1, 1),
]


def session(file: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def picture(graph: onnxruntime.InferenceSession, folder: Path, case: Case) -> np.ndarray:  # [H,W,3] u8
    """By Python's ONNX Runtime and diffrt's own tokenizer, in one call."""
    facts = graph.get_modelmeta().custom_metadata_map
    tokenizer = Tokenizer(folder, int(facts["tokens"]), "<|endoftext|>")
    latents = [int(axis) for axis in facts["latents"].split(",")]
    feeds = {
        "input_ids": tokenizer([case.prompt]).ids,
        "negative_ids": tokenizer([case.negative]).ids,
        "seed": np.array([case.seed]),
        "guidance_scale": np.array(case.guidance, np.float32),
        "num_inference_steps": np.array(case.steps),
        "start": np.array(0),
        "count": np.array(case.steps),
        "slots_before": np.zeros((1, 1, *latents), np.float32),
    }
    return graph.run(["images"], feeds)[0][0]


def run(*command: object, **options) -> subprocess.CompletedProcess:
    text = [str(part) for part in command]
    return subprocess.run(text, capture_output=True, text=True, timeout=600, **options)


def difference(file: Path, expected: np.ndarray) -> int:
    """The largest, of 255."""
    with Image.open(file) as got:
        pixels = np.asarray(got.convert("RGB"))
    assert pixels.shape == expected.shape
    return int(np.abs(pixels.astype(int) - expected).max())


def installed(name: str, factory: pytest.TempPathFactory) -> Path:
    """An example's folder in a copy of all, with what npm installs; skips where it cannot."""
    place = factory.mktemp(name)
    shutil.copytree(EXAMPLES, place / "embed", ignore=shutil.ignore_patterns("node_modules"))
    done = run(
        "npm", "install", "--no-audit", "--no-fund", cwd=place / "embed" / name,
        env=os.environ | {"ONNXRUNTIME_NODE_INSTALL_CUDA": "skip"},
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"npm install failed: {done.stderr.splitlines()[-1]}")
    return place / "embed" / name
