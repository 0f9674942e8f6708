"""Whole pictures, prompt to pixels, against diffusers' StableDiffusionPipeline: same seed, same scheduler config."""

import diffusers
import numpy as np
import pytest
import torch

import diffrt
from diffrt.schedulers import SCHEDULERS

PROMPT, NEGATIVE = "a red apple, very red", "the apple"
GUIDANCE = {"guided": 6.0, "unguided": 1.0}


@pytest.fixture(scope="module", params=["sd1", "sd2"])
def pair(request):
    """(diffrt's pipeline, diffusers' pipeline)"""
    reference = diffusers.StableDiffusionPipeline.from_pretrained(
        request.getfixturevalue(f"{request.param}_checkpoint"), safety_checker=None
    )
    reference.set_progress_bar_config(disable=True)
    return diffrt.load(request.getfixturevalue(f"{request.param}_bundle")), reference


def expected_images(reference, seeds, **arguments):
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    return reference(generator=generators, output_type="np", **arguments).images


def assert_same(images, expected):
    assert images.shape == expected.shape
    assert expected.std() > 0.02  # a flat picture could hide a mistake
    got, wanted = (np.round(np.asarray(x) * 255).astype(int) for x in (images, expected))
    assert np.abs(got - wanted).max() <= 1


@pytest.mark.parametrize("guidance", GUIDANCE)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_pictures_equal(pair, name, guidance):
    pipe, reference = pair
    config = reference.scheduler.config
    pipe.scheduler = SCHEDULERS[name].from_config(pipe.scheduler.config)
    reference.scheduler = getattr(diffusers, name).from_config(config)
    arguments = {
        "prompt": PROMPT, "negative_prompt": NEGATIVE, "num_inference_steps": 6, "guidance_scale": GUIDANCE[guidance],
        "num_images_per_prompt": 2,
    }  # fmt: skip
    out = pipe(seed=11, output_type="np", **arguments)
    assert_same(out.images, expected_images(reference, [11, 12], **arguments))


def test_odd_size_and_several_prompts(pair):
    pipe, reference = pair
    pipe.scheduler = SCHEDULERS["DDIMScheduler"].from_config(pipe.scheduler.config)
    reference.scheduler = diffusers.DDIMScheduler.from_config(reference.scheduler.config)
    arguments = {"prompt": ["apple", "the red"], "num_inference_steps": 2, "height": 520, "width": 456, "eta": 0.7}
    out = pipe(seed=[5, 2**40], guidance_scale=3.0, output_type="np", **arguments)
    assert_same(out.images, expected_images(reference, [5, 2**40], guidance_scale=3.0, **arguments))


def test_latents_and_embeddings_in(pair):
    pipe, reference = pair
    pipe.scheduler = SCHEDULERS["EulerDiscreteScheduler"].from_config(pipe.scheduler.config)
    reference.scheduler = diffusers.EulerDiscreteScheduler.from_config(reference.scheduler.config)
    latents = np.random.default_rng(0).standard_normal((1, 4, 8, 8), dtype=np.float32)
    embeds = np.random.default_rng(1).standard_normal((2, 1, 77, 32), dtype=np.float32)
    arguments = {"num_inference_steps": 3, "guidance_scale": 4.0, "output_type": "np"}
    out = pipe(latents=latents, prompt_embeds=embeds[0], negative_prompt_embeds=embeds[1], **arguments)
    expected = reference(
        latents=torch.from_numpy(latents), prompt_embeds=torch.from_numpy(embeds[0]),
        negative_prompt_embeds=torch.from_numpy(embeds[1]), **arguments,
    ).images  # fmt: skip
    assert_same(out.images, expected)
