"""The program in C, built by its Makefile over the library inside Python's onnxruntime."""

import re
import shutil
from pathlib import Path

import onnxruntime
import pytest

from .hosts import CASES, EXAMPLES, difference, run

LIBRARIES = sorted(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"))
pytestmark = [
    pytest.mark.skipif(not (shutil.which("gcc") and shutil.which("make")), reason="gcc or make is not installed"),
    pytest.mark.skipif(not LIBRARIES, reason="this onnxruntime has no library apart from its Python module"),
]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return shutil.copytree(EXAMPLES / "c", tmp_path_factory.mktemp("embed") / "c")


@pytest.fixture(scope="module")
def program(source):
    built = run("make", "-C", source, f"ORT={LIBRARIES[0]}", "CFLAGS=-O2 -Wall -Wextra -Werror")
    assert built.returncode == 0, built.stderr
    return source / "generate"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.prompt)
def test_the_picture_is_pythons(program, single, pictures, case, tmp_path):
    file = tmp_path / "picture.png"
    numbers = case.seed, case.steps, case.guidance, case.negative
    given = numbers[:1] if case == CASES[0] else numbers  # the first one is of the model's own settings
    done = run(program, single / "pipeline.onnx", case.prompt, file, *given)
    assert (done.returncode, done.stderr) == (0, "")
    assert difference(file, pictures[case]) == 0


@pytest.mark.slow
def test_a_file_with_optional_inputs_does_as_well(program, plain, pictures, tmp_path):
    assert run(program, plain / "pipeline.onnx", CASES[0].prompt, tmp_path / "picture.png", 7).returncode == 0
    assert difference(tmp_path / "picture.png", pictures[CASES[0]]) == 0


def test_a_long_prompt_is_cut_and_said_so(program, single, tmp_path):
    done = run(program, single / "pipeline.onnx", "a b " * 30, tmp_path / "picture.png", 1, 1)
    assert done.returncode == 0
    assert done.stderr == "generate: note: the last 30 tokens of the prompt do not fit and are left out\n"


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ("missing", [], "the model is missing, damaged or newer than this ONNX Runtime: .*doesn't exist"),
        ("damaged", [], "the model is missing, damaged or newer than this ONNX Runtime: .*parsing failed"),
        ("foreign", [], "is no single graph of diffrt: write one with"),
        ("another", [], 'of the kind "text_to_image, ids, unrolled", this program is for "text_to_image, ids, scan"'),
        ("lone", [], "merges.txt is missing or empty: it lies beside the model"),
        ("single", [1, 5], "5 steps are not in this file: give one of 1,4,8,20"),
        ("single", ["1x"], "the seed is 1x: give a number"),
        ("single", [1, 1, 1, b"caf\xe9".decode("utf-8", "surrogateescape")], "the negative prompt is not UTF-8"),
    ],
)
def test_errors_are_one_line(program, single, wrong, tmp_path, model, arguments, message):
    folder = single if model == "single" else wrong.get(model, tmp_path)
    done = run(program, folder / "pipeline.onnx", "a cat", tmp_path / "picture.png", *arguments)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.startswith("generate: ")
    assert re.search(message, done.stderr), done.stderr


def test_the_makefile_says_where_no_library_is(source, tmp_path):
    folder = shutil.copytree(source, tmp_path / "c", ignore=shutil.ignore_patterns("generate", "lib*"))
    built = run("make", "-C", folder, "ORT=/nowhere/libonnxruntime.so")
    assert built.returncode != 0 and "no library at /nowhere/libonnxruntime.so: make ORT=" in built.stderr
