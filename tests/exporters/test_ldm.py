"""Unconditional latent diffusion against diffusers' LDMPipeline: same seed, same steps."""

from functools import partial

import diffusers
import numpy as np
import pytest
import torch

import diffrt
import exporters
from diffrt.errors import InvalidArgument
from tests.checkpoints import SCHEDULER
from tests.conftest import kept
from tests.exporters.test_pictures import assert_same

UNET = {
    "sample_size": 16, "block_out_channels": (16, 32), "norm_num_groups": 8, "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 8,
}  # fmt: skip
VQ = {
    "block_out_channels": (16, 24), "norm_num_groups": 8, "num_vq_embeddings": 40, "sample_size": 32,
    "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
    "scaling_factor": 0.7, "latent_channels": 5, "vq_embed_dim": 3,
}  # fmt: skip


def codebook(model):
    """Entries as far apart as latents are, and not all near 0 as they are born: each is some pixel's nearest."""
    model.quantize.embedding.weight.data.normal_()
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    def make(folder):
        torch.manual_seed(0)
        unet, vq = diffusers.UNet2DModel(**UNET), codebook(diffusers.VQModel(**VQ))
        diffusers.LDMPipeline(vq, unet, diffusers.DDIMScheduler(**SCHEDULER)).save_pretrained(folder / "checkpoint")
        exporters.export(folder / "checkpoint", folder / "bundle")

    return kept("ldm", tmp_path_factory, make)


@pytest.fixture(scope="module")
def pair(folder):
    reference = diffusers.LDMPipeline.from_pretrained(folder / "checkpoint")
    reference.set_progress_bar_config(disable=True)
    return diffrt.load(folder / "bundle"), reference


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_pictures_equal(pair, eta, monkeypatch):
    """The reference draws the noise of its steps from torch's global generator: here it is given the pictures' own."""
    pipe, reference = pair
    arguments = {"batch_size": 2, "num_inference_steps": 8, "eta": eta, "output_type": "np"}
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in (11, 12)]
    monkeypatch.setattr(reference.scheduler, "step", partial(reference.scheduler.step, generator=generators))
    expected = reference(generator=generators, **arguments).images
    assert_same(pipe(seed=11, **arguments).images, expected)


@pytest.mark.parametrize("size", [(16, 16), (9, 11)])
def test_autoencoder_equals_diffusers(pair, size):
    pipe, reference = pair
    vq, scale = reference.vqvae, VQ["scaling_factor"]
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((1, 3, *size), dtype=np.float32)
    picture = rng.uniform(-1, 1, (1, 3, *(2 * side for side in size))).astype(np.float32)
    with torch.no_grad():
        decoded = vq.decode(torch.from_numpy(latents) / scale).sample.numpy()
        encoded = vq.encode(torch.from_numpy(picture)).latents.numpy() * scale
    mean, std = pipe._parts.encoder(picture)
    assert not std.any()
    for got, expected in ((pipe._parts.decoder(latents), decoded), (mean, encoded)):
        assert np.linalg.norm(got - expected) < 1e-5 * np.linalg.norm(expected)


def test_what_is_asked_of_it(pair):
    pipe, _ = pair
    manifest = pipe.bundle.manifest
    assert manifest.certificate["picture"]["psnr_db"] > 60 and manifest.latents == {"channels": 3, "scale_factor": 2}
    out = pipe(seed=3, num_inference_steps=2)
    assert out.images[0].size == (32, 32) and out.latents.shape == (1, 3, 16, 16)
    with pytest.raises(InvalidArgument, match="neither prompt nor image"):
        pipe(image=np.zeros((32, 32, 3), np.uint8))
