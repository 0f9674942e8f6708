"""Exported programs: run by jax alone, where flax and diffrt cannot be imported, and equal to what they came from."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

import diffrt.flax
from diffrt.cli import run
from diffrt.errors import InvalidArgument
from diffrt.flax import stablehlo

ALONE = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("diffrt", "flax", "torch", "safetensors", "tokenizers", "onnxruntime"):
            raise ModuleNotFoundError(f"blocked: {name}", name=name)
sys.meta_path.insert(0, Block())
import numpy as np
sys.path.insert(0, sys.argv[1])
from run import Program
program, given = Program(sys.argv[1]), np.load(sys.argv[2])
np.save(sys.argv[3], program.draw(given["ids"], latents=given["latents"], steps=3, guidance=5.0))
for batch in (1, 3):
    assert program.call("text_encoder", np.zeros((batch, 77), np.int32)).shape == (batch, 77, 16)
try:
    program.rows(7)
except ValueError as error:
    assert "3, 5" in str(error)
else:
    raise AssertionError
"""


def test_the_same_picture_without_diffrt(mini, tmp_path):
    folder = stablehlo.export(mini[4], tmp_path / "programs", steps=(3, 5))
    manifest = json.loads((folder / "stablehlo.json").read_text())
    assert manifest["platforms"] == ["cpu", "cuda", "tpu"]
    weights = [folder / name for names in manifest["weights"].values() for name in names]
    assert all(file.samefile(mini[4] / file.relative_to(folder)) for file in weights)

    pipe = diffrt.flax.load(mini[4], data=1)
    prompts = ["a red apple", "the tree"]
    latents = np.random.default_rng(0).standard_normal((2, 4, 8, 8), np.float32)
    ids = pipe.checkpoint.tokenizer()(prompts).ids
    np.savez(tmp_path / "given.npz", ids=ids, latents=latents)
    out = tmp_path / "out.npy"
    done = subprocess.run(
        [sys.executable, "-c", ALONE, folder, tmp_path / "given.npz", out], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    drawn = np.load(out)
    expected = pipe(prompts, latents=latents, num_inference_steps=3, guidance_scale=5.0)
    expected = np.stack([np.asarray(image) for image in expected.images])
    assert (drawn == expected).all()


def test_the_command_line(mini, tmp_path, capsys):
    assert run(["export", str(mini[9]), str(tmp_path / "out"), "--form", "stablehlo", "--precision", "fp16"]) == 2
    assert "precision 'fp16' is unknown here" in capsys.readouterr().err
    assert run(["export", str(mini[9]), str(tmp_path / "out"), "--form", "stablehlo", "--attention", "ort"]) == 2
    assert "--attention belongs to --form components" in capsys.readouterr().err
    command = ["export", str(mini[9]), str(tmp_path / "out"), "--form", "stablehlo"]
    assert run([*command, "--precision", "bf16", "--static", "16x24"]) == 0
    assert "writing denoise" in capsys.readouterr().err
    manifest = json.loads((tmp_path / "out" / "stablehlo.json").read_text())
    assert (manifest["height"], manifest["width"], manifest["latents"]) == (16, 24, [4, 8, 12])
    assert run(command) == 2
    assert "replace such an export with --force" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "there").mkdir()
    with pytest.raises(InvalidArgument, match="exists"):
        stablehlo.export(mini[9], tmp_path / "there", force=True)
    with pytest.raises(InvalidArgument, match="multiples of 2"):
        stablehlo.export(mini[9], tmp_path / "out", size=(33, 32))
    assert [file.name for file in tmp_path.iterdir()] == ["there"]
