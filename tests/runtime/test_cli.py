"""The command line: what it prints, what it writes, and one line with exit code 2 for everything that goes wrong."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

import diffrt
from diffrt.cli import cli, run
from diffrt.image import read_parameters

COMMANDS = ["generate", "export", "inspect", "verify", "prepare", "push", "providers", "schedulers"]


@pytest.fixture
def generate(sd1_bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        code = run(["generate", "a red apple", "--model", str(sd1_bundle), *arguments])
        return code, *capsys.readouterr()

    return call


def fails(capsys, arguments, *says):
    """One line on stderr, nothing on stdout, exit code 2."""
    assert run([str(a) for a in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("diffrt: ")
    assert err.count("\n") == 1
    for each in says:
        assert each in err


def test_generate(generate, sd1_bundle, tmp_path):
    code, out, err = generate("-o", "a.png", "--seed", "7", "--steps", "3", "--guidance", "4", "--negative", "dull",
                              "--height", "72", "--width", "64", "--scheduler", "ddim")  # fmt: skip
    assert (code, out, err) == (0, "a.png  seed 7\n", "")
    expected = diffrt.load(sd1_bundle)
    expected.scheduler = diffrt.schedulers.DDIMScheduler.from_config(expected.scheduler.config)
    arguments = {"num_inference_steps": 3, "guidance_scale": 4.0, "negative_prompt": "dull", "height": 72, "width": 64}
    picture = expected("a red apple", seed=7, **arguments).images[0]
    with Image.open(tmp_path / "a.png") as written:
        assert written.size == (64, 72)
        assert written.tobytes() == picture.tobytes()
        assert "Negative prompt: dull" in written.text["parameters"]
    parameters = read_parameters(tmp_path / "a.png")
    assert {**parameters, **arguments, "seed": 7, "rng": "torch-cpu", "scheduler": "DDIMScheduler"} == parameters


def test_guidance_and_noise_of_other_kinds(generate, sd1_bundle):
    code, _, err = generate("-o", "a.png", "--seed", "7", "--steps", "3", "--rng", "philox",
                            "--guidance-rescale", "0.5", "--guidance-interval", "0", "0.7")  # fmt: skip
    assert (code, err) == (0, "")
    arguments = {"num_inference_steps": 3, "rng": "philox", "guidance_rescale": 0.5, "guidance_interval": [0.0, 0.7]}
    parameters = read_parameters("a.png")
    assert {**parameters, **arguments} == parameters
    with Image.open("a.png") as written:
        expected = diffrt.load(sd1_bundle)("a red apple", seed=7, **arguments).images[0]
        assert written.tobytes() == expected.tobytes()
    code, _, err = generate("-o", "b.png", "--steps", "2", "--cfg-plus-plus", "--guidance", "7.5")
    assert code == 2
    assert "cfg_plus_plus takes 0 to 1" in err


def test_several_pictures(generate, tmp_path):
    code, out, _ = generate("-n", "3", "-o", "b.webp", "--seed", "5", "--steps", "2", "--quiet")
    assert code == 0
    assert out.splitlines() == [f"b-{i}.webp  seed {5 + i}" for i in range(3)]
    assert sorted(os.listdir(tmp_path)) == ["b-0.webp", "b-1.webp", "b-2.webp"]
    assert generate("-o", "one.webp", "--seed", "6", "--steps", "2")[0] == 0
    with Image.open("one.webp") as one, Image.open("b-1.webp") as middle:
        assert one.tobytes() == middle.tobytes()


def test_a_random_seed_is_printed_and_repeats(generate):
    _, out, _ = generate("-o", "a.png", "--steps", "2")
    seed = out.split()[-1]
    generate("-o", "b.png", "--steps", "2", "--seed", seed)
    with Image.open("a.png") as a, Image.open("b.png") as b:
        assert a.tobytes() == b.tobytes()


def test_weighted_and_long_prompts(sd1_bundle, tmp_path, capsys):
    prompt, out = "apple " * 80 + "(red:1.5) AND the thing :0.5", tmp_path / "a.png"
    arguments = ["--model", str(sd1_bundle), "-o", str(out), "--steps", "2", "--seed", "7", "--chunks", "auto"]
    assert run(["generate", prompt, *arguments, "--weighting", "scale"]) == 0
    assert capsys.readouterr().err == ""
    parameters = read_parameters(out)
    assert (parameters["prompt"], parameters["weighting"], parameters["chunks"]) == (prompt, "scale", 2)
    pipe = diffrt.load(sd1_bundle)
    again = pipe(prompt, weighting="scale", chunks=2, num_inference_steps=2, seed=7).images[0]
    with Image.open(out) as written:
        assert written.tobytes() == again.tobytes()


def test_cut_off_prompts_are_reported_once(sd1_bundle, tmp_path, capsys):
    arguments = ["--model", str(sd1_bundle), "-n", "2", "-o", str(tmp_path / "a.png"), "--steps", "1"]
    assert run(["generate", "apple " * 75 + "the tail", *arguments]) == 0
    assert capsys.readouterr().err == "diffrt: a prompt is too long; cut off: 'the tail'\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--height", "60"], "multiple of 8"),
        (["--steps", "0"], "num_inference_steps is 0"),
        (["--steps", "x"], "'x' is not a valid integer"),
        (["--steps", "2000"], "num_inference_steps = 2000"),
        (["--guidance", "nan"], "guidance_scale is nan"),
        (["--scheduler", "DDIIMScheduler"], "did you mean 'DDIMScheduler'"),
        (["--provider", "cpuu"], "did you mean 'cpu'"),
        (["--rng", "torch"], "torch-cpu"),
        (["--weighting", "a1111"], "known: empty, mean, scale"),
        (["--chunks", "-1"], "chunks is '-1'"),
        (["--seed", "99999999999999999999999"], "seed is"),
        (["-n", "0"], "-n is 0"),
        (["-o", "nowhere/a.png"], "no folder 'nowhere'"),
        (["-o", "a.gif"], "must end in .png"),
        (["--modle", "x"], "--modle"),
        (["more words"], "unexpected extra argument"),
    ],
)
def test_bad_options(generate, tmp_path, arguments, says):
    code, out, err = generate(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("diffrt: ")
    assert err.count("\n") == 1
    assert says in err
    assert os.listdir(tmp_path) == []


def test_bad_command_lines(capsys, sd1_checkpoint, tmp_path):
    fails(capsys, ["generate"], "PROMPT", "diffrt generate --help")
    fails(capsys, ["generat"], "generat")
    fails(capsys, ["generate", "a", "--model", "emojy"], "emojy", "emoji")
    fails(capsys, ["generate", "a", "--model", sd1_checkpoint], "diffrt export")
    fails(capsys, ["inspect", tmp_path], "diffrt.json")
    fails(capsys, ["verify", tmp_path], "diffrt.json")
    fails(capsys, ["verify", tmp_path, "--provider", "x"], "diffrt")
    (tmp_path / "empty").mkdir()
    fails(capsys, ["export", tmp_path / "empty", tmp_path / "out"], "model_index.json")
    fails(capsys, ["export", sd1_checkpoint, tmp_path / "out", "--static", "512"], "512x512")
    fails(capsys, ["export", sd1_checkpoint, tmp_path / "out", "--static", "60x64"], "60x64")
    fails(capsys, ["export", sd1_checkpoint, tmp_path / "out", "--precision", "fp17"], "did you mean 'fp16'")
    fails(capsys, ["export", sd1_checkpoint, tmp_path / "out", "--form", "double"], "components")
    assert os.listdir(tmp_path) == ["empty"]


def test_a_full_disk_is_one_line_and_leaves_nothing(generate, tmp_path, monkeypatch):
    def full(self, file, **options):
        file.write(b"some")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)
    code, out, err = generate("-o", "a.png", "--steps", "1")
    assert (code, out, err) == (2, "", "diffrt: No space left on device\n")
    assert os.listdir(tmp_path) == []


def test_interrupting(sd1_bundle, tmp_path):
    """Ctrl-C in the middle of a long generation."""
    arguments = [
        "generate",
        "a",
        "--model",
        str(sd1_bundle),
        "--steps",
        "900",
        "-n",
        "50",
        "-o",
        str(tmp_path / "a.png"),
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "diffrt", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err.strip()) == (130, "diffrt: stopped")
    finished = [Path(line.partition("  seed ")[0]) for line in out.splitlines()]  # a fast machine may get that far
    assert sorted(tmp_path.iterdir()) == sorted(finished)
    assert len(finished) < 50


def test_damaged_bundles(capsys, sd1_bundle, tmp_path):
    copy = shutil.copytree(sd1_bundle, tmp_path / "bundle")
    (copy / "unet" / "model.onnx").write_bytes(b"no")
    for command in (["inspect"], ["verify"], ["generate", "a", "--model"]):
        fails(capsys, [*command, copy], "unet/model.onnx")


def test_inspect(capsys, sd1_bundle):
    assert run(["inspect", str(sd1_bundle)]) == 0
    out = capsys.readouterr().out
    for each in (
        "stable-diffusion",
        "PNDMScheduler",
        "64x64",
        "unet/model.ort.onnx",
        "certificate none",
        "batch, 4, h, w",
    ):
        assert each in out


def test_verify(capsys, sd1_bundle):
    assert run(["verify", str(sd1_bundle)]) == 0
    out, err = capsys.readouterr()
    assert out.count("sha256 ok") == len(diffrt.load(sd1_bundle).bundle.manifest.files)
    assert "no numbers to check" in err


def test_lists(capsys):
    assert run(["providers"]) == 0
    assert "cpu             onnxruntime   installed" in capsys.readouterr().out
    assert run(["schedulers"]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == len(diffrt.schedulers.SCHEDULERS)
    for line in out.splitlines():
        diffrt.schedulers.scheduler_class(line.split()[0])


def test_help(capsys):
    for arguments in ([], ["--help"], ["-h"]):
        assert run(arguments) == 0
        out = capsys.readouterr().out
        assert all(command in out for command in COMMANDS)
    assert sorted(cli.commands) == sorted(COMMANDS)
    for command in COMMANDS:
        assert run([command, "--help"]) == 0
        assert capsys.readouterr().out.startswith(f"Usage: diffrt {command}")
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"diffrt {diffrt.__version__}\n"
