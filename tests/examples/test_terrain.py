"""The example with a terrain network against its package's own generator: pip install --no-deps
adaptive-terrain-diffusion==0.4.2."""

import runpy

import numpy as np
import pytest

import diffrt
from diffrt.schedulers import from_config
from tests.conftest import REPOSITORY

terrain_diffusion = pytest.importorskip("terrain_diffusion")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def example():
    return runpy.run_path(str(REPOSITORY / "examples" / "terrain" / "draw.py"))


@pytest.mark.parametrize("sampler", ["cm", "edm", "edm-dpm++"])
def test_one_step_is_the_generators(example, tmp_path, sampler):
    generator = terrain_diffusion.TerrainGenerator(device="cpu")
    pipe = diffrt.load(example["bundle"](tmp_path / "terrain"))
    pipe.scheduler = from_config({}, sampler)
    z = np.random.default_rng(5).standard_normal((2, 1, 128, 128), dtype=np.float32)
    levels = np.concatenate([example["level"](20), example["level"](90)])
    first = np.float32(pipe.scheduler.table(1).init_sigma)
    expected = generator._denoise(z * first, np.full(2, 80.0), levels)
    out = pipe(conditions={"difficulty": levels}, latents=z, batch_size=2, num_inference_steps=1, output_type="latent")
    assert expected.std() > 0.1
    np.testing.assert_allclose(out.images, expected, atol=1e-5)
    own = generator._from_model_space(expected, zero_floor=False)
    np.testing.assert_allclose(example["heights"](out.images), own, atol=1e-3)


def test_the_picture(example, tmp_path):
    example["main"](str(tmp_path / "t.webp"))
    assert (tmp_path / "t.webp").stat().st_size > 10_000
