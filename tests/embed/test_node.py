"""The program in Node.js, over npm's onnxruntime-node."""

import json
import re
import shutil

import numpy as np
import pytest

from .conftest import exported
from .hosts import CASES, EXAMPLES, difference, installed, run, session

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("npm"), reason="node and npm are not installed"),
]


DOCS = EXAMPLES.parents[1] / "docs" / "embedding-hosts.md"
FROM_A_PICTURE = """
import ort from "onnxruntime-node";
import { readFileSync, writeFileSync } from "node:fs";
const [model, given, to] = process.argv.slice(2);
const { ids, rgb, grey, height, width } = JSON.parse(readFileSync(given), (key, x) =>
  key === "rgb" || key === "grey" ? Uint8Array.from(x) : x);
const whole = (numbers, shape) => new ort.Tensor("int64", BigInt64Array.from(numbers.map(BigInt)), shape);
const feeds = {
  input_ids: whole(ids, [1, ids.length]), negative_ids: whole(ids, [1, ids.length]), seed: whole([7], [1]),
  guidance_scale: new ort.Tensor("float32", Float32Array.of(3), []), num_inference_steps: whole([4], []),
};
SNIPPET
const session = await ort.InferenceSession.create(model, { logSeverityLevel: 3 });
writeFileSync(to, (await session.run(feeds, ["images"])).images.data);
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return installed("node", tmp_path_factory) / "generate.mjs"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.prompt)
def test_the_picture_is_pythons(program, single, pictures, case, tmp_path):
    """In segments, and perhaps on another ONNX Runtime than Python's."""
    options = "--seed", case.seed, "--steps", case.steps, "--guidance", case.guidance, f"--negative={case.negative}"
    given = options[:2] if case == CASES[0] else options  # the first one is of the model's own settings
    done = run("node", program, single / "pipeline.onnx", case.prompt, "-o", tmp_path / "picture.png", *given)
    assert (done.returncode, done.stderr) == (0, "")
    assert difference(tmp_path / "picture.png", pictures[case]) <= 1


def test_a_file_without_segments_is_run_in_one_call(program, plain, pictures, tmp_path):
    options = "-o", tmp_path / "picture.png", "--seed", 7
    assert run("node", program, plain / "pipeline.onnx", CASES[0].prompt, *options).returncode == 0
    assert difference(tmp_path / "picture.png", pictures[CASES[0]]) <= 1


def test_a_long_prompt_is_cut_and_said_so(program, single, tmp_path):
    options = "-o", tmp_path / "picture.png", "--steps", 1
    done = run("node", program, single / "pipeline.onnx", "a b " * 30, *options)
    assert done.returncode == 0
    assert done.stderr == "note: the prompt's last 30 tokens do not fit and are left out\n"


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ("missing", [], "no such file or directory, open .*pipeline.onnx"),
        ("damaged", [], "pipeline.onnx is damaged, or no ONNX file .*: write one with"),
        ("foreign", [], "no single graph of diffrt: write one with"),
        ("another", [], 'of the kind "text_to_image, ids, unrolled", this program is for "text_to_image, ids, scan"'),
        ("lone", [], "no such file or directory, open .*vocab.json"),
        ("single", ["--steps", 5], "5 steps are not in this file: give one of 1, 4, 8, 20"),
        ("single", ["--seed", "1x"], "--seed is 1x: give a number"),
        ("single", ["--seed", "0.5"], "the seed 0.5 is no whole number from 0 to"),
        ("single", ["--sed", "1"], "Unknown option '--sed'"),
    ],
)
def test_errors_are_one_line(program, single, wrong, tmp_path, model, arguments, message):
    folder = single if model == "single" else wrong.get(model, tmp_path)
    done = run("node", program, folder / "pipeline.onnx", "a cat", *arguments, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.startswith("generate: ")
    assert re.search(message, done.stderr), done.stderr


def test_without_the_package_it_says_what_to_install(single, tmp_path):
    shutil.copytree(EXAMPLES, tmp_path / "embed", ignore=shutil.ignore_patterns("node_modules"))
    done = run("node", tmp_path / "embed" / "node" / "generate.mjs", single / "pipeline.onnx", "a cat")
    assert done.returncode == 2 and "run npm install here first" in done.stderr


def test_from_a_picture(program, tmp_path_factory):
    """As the page on hosts says."""
    folder = exported(tmp_path_factory, "--task", "inpaint", "--steps", "4")
    snippet = re.search(r"```js\n(feeds\.image.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    script = program.with_name("picture.mjs")
    script.write_text(FROM_A_PICTURE.replace("SNIPPET", snippet[1]), "utf-8")
    y, x = np.mgrid[:128, :128]
    rgb = np.stack([x + y, 255 - y, 2 * x], axis=-1).astype(np.uint8)
    grey = np.where(y > 60, 255, 0).astype(np.uint8)
    given = {"ids": [2046, 5, *[2047] * 30], "rgb": rgb.ravel().tolist(), "grey": grey.ravel().tolist()}
    (folder / "given.json").write_text(json.dumps(given | {"height": 128, "width": 128}))
    done = run("node", script, folder / "pipeline.onnx", folder / "given.json", folder / "out")
    assert (done.returncode, done.stderr) == (0, "")
    ids = np.array([given["ids"]])
    feeds = {"input_ids": ids, "negative_ids": ids, "seed": np.array([7]), "guidance_scale": np.array(3, np.float32)}
    feeds |= {"num_inference_steps": np.array(4), "image": rgb[None], "mask": grey[None], "strength": np.array(0.6)}
    expected = session(folder / "pipeline.onnx").run(["images"], feeds)[0]
    ours = np.fromfile(folder / "out", np.uint8).reshape(expected.shape)
    assert np.abs(ours.astype(int) - expected).max() <= 1
