"""Depth-to-image, whole pictures against diffusers' pipeline: same seed, same scheduler config, a depth map given."""

import diffusers
import numpy as np
import pytest
import torch

import diffrt
import exporters
from diffrt.errors import InvalidArgument
from tests.conftest import kept
from tests.exporters.test_edit import write
from tests.exporters.test_image_tasks import SEEDS, Side, picture
from tests.exporters.test_pictures import assert_same

ARGUMENTS = {"prompt": "a red apple", "num_inference_steps": 5, "guidance_scale": 6.0, "output_type": "np"}
WITHOUT = {"depth_estimator": None, "feature_extractor": None}


def depth_map(height=30, width=50, seed=0):
    """In meters, so to speak, and of a size of its own."""
    rng = np.random.default_rng(seed)
    return (np.linspace(1, 9, height)[:, None] + rng.random((height, width))).astype(np.float32)


@pytest.fixture(scope="module")
def deep(tmp_path_factory) -> Side:
    pipeline = diffusers.StableDiffusionDepth2ImgPipeline

    def make(folder):
        exporters.export(write(folder, pipeline, 5, **WITHOUT), folder / "bundle", verify=False)

    folder = kept("depth", tmp_path_factory, make)
    reference = pipeline.from_pretrained(folder / "checkpoint", **WITHOUT)
    reference.set_progress_bar_config(disable=True)
    return Side(diffrt.load(folder / "bundle"), reference, folder / "checkpoint")


def check(deep, image, depth, seeds=SEEDS, **arguments):
    """Ours and the reference, a picture for each seed."""
    given = ARGUMENTS | {"image": image} | arguments
    out = deep.ours(depth_map=depth, seed=seeds, num_images_per_prompt=len(seeds), **given)
    theirs = {"depth_map": torch.from_numpy(depth)[None], **given}
    expected = [deep.theirs(generator=torch.Generator("cpu").manual_seed(seed), **theirs).images for seed in seeds]
    assert_same(out.images, np.concatenate(expected))
    return out


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("name", ["PNDMScheduler", "EulerDiscreteScheduler", "DDIMScheduler"])
def test_pictures_equal(deep, name, strength):
    deep.sample(name)
    out = check(deep, picture(40, 48), depth_map(), strength=strength)
    assert out.parameters[0]["task"] == "depth_to_image" and out.parameters[0]["strength"] == strength


def test_unguided(deep):
    deep.sample("DDIMScheduler")
    check(deep, picture(40, 48), depth_map(), guidance_scale=1.0)


def test_several_prompts_and_maps(deep):
    deep.sample("DDIMScheduler")
    given = ARGUMENTS | {"prompt": ["a red apple", "the"], "image": [picture(40, 48), picture(40, 48, seed=1)]}
    maps = np.stack([depth_map(), depth_map(seed=1)])
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in SEEDS]
    expected = deep.theirs(generator=generators, depth_map=torch.from_numpy(maps), **given).images
    assert_same(deep.ours(seed=SEEDS, depth_map=maps, **given).images, expected)


def test_depth_acts(deep):
    given = ARGUMENTS | {"image": picture(40, 48), "seed": 3}
    a, b = (deep.ours(depth_map=each, **given).images for each in (depth_map(), depth_map()[::-1]))
    assert np.abs(a - b).max() > 0.02


@pytest.mark.parametrize("size", [(8, 8), (9, 11)])
def test_unet(deep, size):
    rng = np.random.default_rng(0)
    sample, context = (rng.standard_normal(shape, dtype=np.float32) for shape in ((2, 5, *size), (2, 77, 32)))
    with torch.no_grad():
        expected = deep.theirs.unet(torch.from_numpy(sample), 300, torch.from_numpy(context)).sample.numpy()
    got = deep.ours._parts.denoiser(sample, 300.0, {"encoder_hidden_states": context})
    assert np.linalg.norm(got - expected) < 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "has no text-to-image: give it an image and its depth_map"),
        ({"image": picture()}, "depth_map is missing"),
        ({"depth_map": depth_map()}, "depth_map is given, and goes with depth-to-image"),
        ({"image": picture(), "depth_map": [depth_map()] * 2}, "2 maps for 1 prompts"),
    ],
)
def test_what_is_asked_of_it(deep, arguments, says):
    with pytest.raises(InvalidArgument, match=says):
        deep.ours(**{"prompt": "a"} | arguments)
