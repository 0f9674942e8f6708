"""NCSN++ and the predictor and corrector of score SDEs against diffusers' ScoreSdeVePipeline: same seed, same steps."""

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import diffrt
import exporters
from diffrt.errors import CheckpointError, InvalidArgument
from tests.conftest import kept
from tests.exporters.test_pictures import assert_same

UNET = {
    "sample_size": 16, "block_out_channels": (32, 32, 64), "layers_per_block": 1, "attention_head_dim": None,
    "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D", "SkipDownBlock2D"),
    "up_block_types": ("SkipUpBlock2D", "AttnSkipUpBlock2D", "SkipUpBlock2D"), "time_embedding_type": "fourier",
    "norm_num_groups": None, "norm_eps": 1e-6, "mid_block_scale_factor": 2**0.5,
}  # fmt: skip
SCHEDULER = {"sigma_max": 0.25, "correct_steps": 2}  # small, for a network that takes away no noise


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    def make(folder):
        torch.manual_seed(0)
        unet = diffusers.UNet2DModel(**UNET).eval()
        unet.conv_out.bias.data += 1.2  # moves pictures from 0 to between 0 and 1
        scheduler = diffusers.ScoreSdeVeScheduler(**SCHEDULER)
        diffusers.ScoreSdeVePipeline(unet, scheduler).save_pretrained(folder / "checkpoint")
        weights = folder / "checkpoint" / "unet" / "diffusion_pytorch_model.safetensors"
        tensors = load_file(weights)  # as the first ones were written
        save_file(tensors | {"time_proj.W": tensors["time_proj.weight"].clone()}, weights, {"format": "pt"})
        exporters.export(folder / "checkpoint", folder / "bundle")

    return kept("score-sde", tmp_path_factory, make)


@pytest.fixture(scope="module")
def pair(folder):
    reference = diffusers.ScoreSdeVePipeline.from_pretrained(folder / "checkpoint")
    reference.set_progress_bar_config(disable=True)
    return diffrt.load(folder / "bundle"), reference


def test_pictures_equal(pair):
    """One at a time: in a batch the reference's corrector takes steps of a size that all pictures make up."""
    pipe, reference = pair
    arguments = {"num_inference_steps": 6, "output_type": "np"}
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in (11, 12)]
    expected = np.concatenate([reference(1, generator=each, **arguments).images for each in generators])
    out = pipe(batch_size=2, seed=11, **arguments)
    inside = (out.latents > 0) & (out.latents < 1)
    assert inside.mean() > 0.6  # where they end is seen in the pictures
    assert_same(out.images, expected)


@pytest.mark.parametrize("sigma", [0.01, 0.7, 1348.0])
def test_component_equals_diffusers(pair, sigma):
    pipe, reference = pair
    x = np.random.default_rng(0).standard_normal((2, 3, 16, 24), dtype=np.float32) * np.float32(sigma)
    with torch.no_grad():
        expected = reference.unet(torch.from_numpy(x), torch.full((2,), sigma)).sample.numpy()
    got = pipe._parts.denoiser(x, sigma, {})
    assert np.linalg.norm(got - expected) < 1e-5 * np.linalg.norm(expected)


def test_any_size(pair):
    """Others than multiples of 4 as well, which diffusers' cannot take."""
    out = pair[0](height=9, width=1, num_inference_steps=2, seed=3, output_type="np")
    assert out.images.shape == (1, 9, 1, 3)


def test_half_precision_is_refused(folder, tmp_path):
    with pytest.raises(CheckpointError, match="--precision fp32"):
        exporters.export(folder / "checkpoint", tmp_path / "bundle", precision="fp16")
    assert not any(tmp_path.iterdir())


def test_what_is_asked_of_it(pair):
    pipe, _ = pair
    manifest = pipe.bundle.manifest
    assert manifest.certificate["picture"]["psnr_db"] > 60 and manifest.defaults.num_inference_steps == 2000
    step = next(pipe.stream(seed=3))
    np.testing.assert_allclose(step.preview()[0], (step.denoised[0].clip(0, 1) * 255).transpose(1, 2, 0), atol=1)
    with pytest.raises(InvalidArgument, match="takes none"):
        pipe("a red apple")
