"""The script in plain Python, as it is and packed by PyInstaller."""

import re
import shutil
import sys
import venv

import pytest

from .hosts import CASES, EXAMPLES, difference, run

SCRIPT = EXAMPLES / "frozen" / "generate.py"


def options(case):
    given = f"--steps={case.steps}", f"--guidance={case.guidance}", f"--negative={case.negative}"
    return f"--seed={case.seed}", *(() if case == CASES[0] else given)  # the first one is of the model's own settings


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.prompt)
def test_the_scripts_picture(single, pictures, case, tmp_path):
    done = run(sys.executable, SCRIPT, case.prompt, tmp_path / "picture.png", "--model", single, *options(case))
    assert (done.returncode, done.stderr) == (0, "")
    assert difference(tmp_path / "picture.png", pictures[case]) == 0


@pytest.mark.slow
def test_a_file_with_optional_inputs_does_as_well(plain, pictures, tmp_path):
    options = "--model", plain, "--seed", 7
    assert run(sys.executable, SCRIPT, CASES[0].prompt, tmp_path / "picture.png", *options).returncode == 0
    assert difference(tmp_path / "picture.png", pictures[CASES[0]]) == 0


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ("missing", [], "pipeline.onnx is missing: write one with .*, and give its folder with --model"),
        ("lone", [], "vocab.json is missing"),
        ("damaged", [], "is damaged, or newer than this ONNX Runtime: .*parsing failed"),
        ("another", [], "of the kind 'text_to_image, ids, unrolled', this program is for 'text_to_image, ids, scan'"),
        ("foreign", [], "is no single graph of diffrt: write one with"),
        ("single", ["--steps", 5], "5 steps are not in this file: give one of 1,4,8,20"),
    ],
)
def test_errors_are_one_line(single, wrong, tmp_path, model, arguments, message):
    folder = single if model == "single" else wrong.get(model, tmp_path / "none")
    done = run(sys.executable, SCRIPT, "a cat", tmp_path / "picture.png", "--model", folder, *arguments)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and done.stderr.startswith("draw: ")
    assert re.search(message, done.stderr), done.stderr


@pytest.mark.slow
def test_the_packed_program_stands_alone(single, pictures, tmp_path):
    """Built as its first lines say; run with nothing in the environment."""
    venv.create(tmp_path / "venv", with_pip=True)
    packages = "pyinstaller", f"onnxruntime=={__import__('onnxruntime').__version__}"
    installed = run(tmp_path / "venv" / "bin" / "pip", "install", "-q", *packages)
    if installed.returncode:
        pytest.skip(f"PyInstaller cannot be installed: {installed.stderr.splitlines()[-1]}")
    shutil.copytree(EXAMPLES / "frozen", tmp_path / "frozen")
    data = f"--add-data={single}/*:model"
    command = tmp_path / "venv" / "bin" / "pyinstaller", "--onefile", "--name=draw", data, "generate.py"
    built = run(*command, cwd=tmp_path / "frozen")
    assert built.returncode == 0, built.stderr[-2000:]
    program = shutil.move(tmp_path / "frozen" / "dist" / "draw", tmp_path / "draw")
    for case in CASES:
        done = run(
            program, case.prompt, tmp_path / "picture.png", *options(case), cwd=tmp_path, env={"LANG": "C.UTF-8"}
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert difference(tmp_path / "picture.png", pictures[case]) == 0
