"""The program in Node.js, over npm's onnxruntime-node."""

import re
import shutil

import pytest

from .hosts import CASES, EXAMPLES, difference, installed, run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("npm"), reason="node and npm are not installed"),
]


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
