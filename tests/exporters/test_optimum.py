"""`--layout optimum`: what optimum draws from the folder is what diffusers draws from the checkpoint.

optimum needs an older diffusers and transformers: DIFFRT_OPTIMUM_PYTHON names the Python of an environment with
optimum-onnx 0.1.0, diffusers 0.39.0 and transformers 4.57.6.
"""

import os
import shutil
import subprocess
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

import diffrt
import exporters
from diffrt.errors import InvalidArgument
from diffrt.onnx_file import read_graph
from tests.checkpoints import write_tokenizer
from tests.exporters import test_sdxl

CALL = {"prompt": "a red apple", "num_inference_steps": 2, "guidance_scale": 4.0, "output_type": "np"}


def assert_same(images, expected):
    assert expected.std() > 0.02
    assert np.abs(np.round(images * 255) - np.round(expected * 255)).max() <= 1


@pytest.mark.slow
def test_folder(sd1_checkpoint, tmp_path):
    folder = exporters.export(sd1_checkpoint, tmp_path / "optimum", layout="optimum")
    graphs = {part: read_graph(folder / part / "model.onnx") for part in ("unet", "vae_encoder", "vae_decoder")}
    assert graphs["unet"].inputs["timestep"].shape == ()
    assert list(graphs["vae_encoder"].outputs) == ["latent_parameters"]
    weights = [folder / part / "diffusion_pytorch_model.safetensors" for part in ("vae_encoder", "vae_decoder")]
    assert weights[0].samefile(weights[1])  # on the disk once

    assert_optimum_draws_the_same(folder, sd1_checkpoint, tmp_path / "out.npy", safety_checker=None)


@pytest.mark.slow
def test_folder_of_xl(tmp_path):
    test_sdxl.write(tmp_path / "checkpoint", "base")
    for name, pad in (("tokenizer", "<|endoftext|>"), ("tokenizer_2", "!")):
        shutil.rmtree(tmp_path / "checkpoint" / name)  # transformers 5 writes one that 4 cannot read
        write_tokenizer(tmp_path / "checkpoint" / name, pad)
    folder = exporters.export(tmp_path / "checkpoint", tmp_path / "optimum", layout="optimum")
    assert_optimum_draws_the_same(folder, tmp_path / "checkpoint", tmp_path / "out.npy", add_watermarker=False)


def assert_optimum_draws_the_same(folder, checkpoint, out, **options):
    reference = diffusers.DiffusionPipeline.from_pretrained(checkpoint, **options)
    expected = reference(generator=torch.Generator("cpu").manual_seed(3), **CALL).images
    assert_same(diffrt.load(folder)(seed=3, **CALL).images, expected)
    python = os.environ.get("DIFFRT_OPTIMUM_PYTHON")
    if python is None:
        pytest.skip("DIFFRT_OPTIMUM_PYTHON names no Python with optimum")
    script = Path(__file__).with_name("draw_with_optimum.py")
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([python, script, folder, out], check=True, env=clean)
    assert_same(np.load(out), expected)


@pytest.mark.parametrize("given", [{"precision": "fp16"}, {"static": (64, 64)}, {"defaults": {"height": 64}}], ids=str)
def test_what_belongs_to_bundles(tmp_path, given):
    with pytest.raises(InvalidArgument, match="belong to the layout diffrt"):
        exporters.export(tmp_path, tmp_path / "out", layout="optimum", **given)
    with pytest.raises(InvalidArgument, match="did you mean 'optimum'"):
        exporters.export(tmp_path, tmp_path / "out", layout="optimun")
