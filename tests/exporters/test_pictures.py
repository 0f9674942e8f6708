"""Whole pictures, prompt to pixels, against diffusers' StableDiffusionPipeline: same seed, same scheduler config."""

import diffusers
import numpy as np
import pytest
import torch

import diffrt
from diffrt.schedulers import SCHEDULERS
from tests.schedulers.reference import PICTURED

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
@pytest.mark.parametrize("name", PICTURED)
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


def test_rescaled_guidance(pair):
    pipe, reference = pair
    pipe.scheduler = SCHEDULERS["DDIMScheduler"].from_config(pipe.scheduler.config)
    reference.scheduler = diffusers.DDIMScheduler.from_config(reference.scheduler.config)
    arguments = {
        "prompt": PROMPT, "negative_prompt": NEGATIVE, "num_inference_steps": 4, "guidance_scale": 9.0,
        "num_images_per_prompt": 2,
    }  # fmt: skip
    out = pipe(seed=11, output_type="np", guidance_rescale=0.7, **arguments)
    assert_same(out.images, expected_images(reference, [11, 12], guidance_rescale=0.7, **arguments))
    plain = pipe(seed=11, output_type="np", **arguments)
    assert np.abs(plain.images - out.images).max() > 0.02


def test_guidance_that_ends(pair):
    """diffusers' own recipe: a callback that drops the negative half after some steps."""
    pipe, reference = pair
    pipe.scheduler = SCHEDULERS["EulerDiscreteScheduler"].from_config(pipe.scheduler.config)
    reference.scheduler = diffusers.EulerDiscreteScheduler.from_config(reference.scheduler.config)

    def end(reference, step, t, tensors):
        if step == 1:  # after it
            reference._guidance_scale = 0.0
            tensors["prompt_embeds"] = tensors["prompt_embeds"].chunk(2)[1]
        return tensors

    arguments = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "num_inference_steps": 5, "guidance_scale": 9.0}
    out = pipe(seed=11, output_type="np", guidance_interval=(0, 0.4), **arguments)
    ended = {"callback_on_step_end": end, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    assert_same(out.images, expected_images(reference, [11], **arguments, **ended))


@pytest.mark.parametrize("weighting", ["scale", "mean", "empty"])
def test_weighted_and_long_prompts(pair, weighting):
    """Our embeddings draw the same picture there."""
    pipe, reference = pair
    pipe.scheduler = SCHEDULERS["EulerDiscreteScheduler"].from_config(pipe.scheduler.config)
    reference.scheduler = diffusers.EulerDiscreteScheduler.from_config(reference.scheduler.config)
    arguments = {"num_inference_steps": 3, "guidance_scale": 4.0, "num_images_per_prompt": 2}
    prompt = "a (red:1.4) apple, " * 20 + "((very)) [red] (thing:-0.5)"
    out = pipe(
        prompt, negative_prompt="(dull:0.7)", weighting=weighting, chunks="auto", seed=3, output_type="np", **arguments
    )
    assert out.prompt_embeds.shape == out.negative_prompt_embeds.shape == (1, 154, 32)
    embeds, negative = (torch.from_numpy(each) for each in (out.prompt_embeds, out.negative_prompt_embeds))
    expected = expected_images(reference, [3, 4], prompt_embeds=embeds, negative_prompt_embeds=negative, **arguments)
    assert_same(out.images, expected)


@torch.no_grad()
def test_composed_prompts(pair):
    """a AND b against a loop over diffusers' own parts."""
    pipe, reference = pair
    pipe.scheduler = SCHEDULERS["DDIMScheduler"].from_config(pipe.scheduler.config)
    scheduler = diffusers.DDIMScheduler.from_config(reference.scheduler.config)
    scheduler.set_timesteps(4)
    texts, shares = [NEGATIVE, PROMPT, "the thing", "app"], [1.0, 0.6, -0.3]
    ids = reference.tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt").input_ids
    embeds = reference.text_encoder(ids)[0]
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator("cpu").manual_seed(11))
    for t in scheduler.timesteps:
        without, *conditions = reference.unet(x.repeat(4, 1, 1, 1), t, embeds).sample.chunk(4)
        m = without + 5.0 * sum(w * (m - without) for w, m in zip(shares, conditions, strict=True))
        x = scheduler.step(m, t, x).prev_sample
    decoded = reference.vae.decode(x / reference.vae.config.scaling_factor).sample
    expected = (decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    prompt = f"{texts[1]} AND {texts[2]} :{shares[1]} AND {texts[3]}:{shares[2]}"
    out = pipe(
        prompt, negative_prompt=NEGATIVE, weighting="scale", num_inference_steps=4, guidance_scale=5.0, seed=11,
        output_type="np",
    )  # fmt: skip
    assert_same(out.images, expected)
