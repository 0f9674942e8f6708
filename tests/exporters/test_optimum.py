"""`--layout optimum`: what optimum draws from the folder is what diffusers draws from the checkpoint.

optimum needs an older diffusers and transformers: DIFFRT_OPTIMUM_PYTHON names the Python of an environment with
optimum-onnx 0.1.0, diffusers 0.39.0 and transformers 4.57.6.
"""

import os
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

    reference = diffusers.StableDiffusionPipeline.from_pretrained(sd1_checkpoint, safety_checker=None)
    expected = reference(generator=torch.Generator("cpu").manual_seed(3), **CALL).images
    assert_same(diffrt.load(folder)(seed=3, **CALL).images, expected)
    python = os.environ.get("DIFFRT_OPTIMUM_PYTHON")
    if python is None:
        pytest.skip("DIFFRT_OPTIMUM_PYTHON names no Python with optimum")
    script, out = Path(__file__).with_name("draw_with_optimum.py"), tmp_path / "out.npy"
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([python, script, folder, out], check=True, env=clean)
    assert_same(np.load(out), expected)


@pytest.mark.parametrize("given", [{"precision": "fp16"}, {"static": (64, 64)}, {"defaults": {"height": 64}}], ids=str)
def test_what_belongs_to_bundles(tmp_path, given):
    with pytest.raises(InvalidArgument, match="belong to the layout diffrt"):
        exporters.export(tmp_path, tmp_path / "out", layout="optimum", **given)
    with pytest.raises(InvalidArgument, match="did you mean 'optimum'"):
        exporters.export(tmp_path, tmp_path / "out", layout="optimun")
