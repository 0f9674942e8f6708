# ruff: noqa: PT017, RUF005
"""Run by test_devices.py with eight virtual CPU devices: python eight_devices.py CHECKPOINT INPAINTING-CHECKPOINT."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from flax.jax_utils import replicate
from flax.training.common_utils import shard
from PIL import Image

import diffrt.flax
from diffrt.errors import InvalidArgument
from diffrt.flax import (
    FlaxStableDiffusionImg2ImgPipeline,
    FlaxStableDiffusionInpaintPipeline,
    FlaxStableDiffusionPipeline,
)

checkpoint, inpainting = sys.argv[1:]
assert jax.device_count() == 8
SIZE = {"height": 32, "width": 32}


def picture(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8))


def text_to_image():
    pipeline, params = FlaxStableDiffusionPipeline.from_pretrained(checkpoint, revision="flax", dtype=jnp.float32)
    single = params

    prompt = "a photo of an astronaut riding a horse on mars"

    prng_seed = jax.random.PRNGKey(0)
    num_inference_steps = 3

    num_samples = jax.device_count()
    prompt = num_samples * [prompt]
    prompt_ids = pipeline.prepare_inputs(prompt)

    # shard inputs and rng
    params = replicate(params)
    prng_seed = jax.random.split(prng_seed, jax.device_count())
    prompt_ids = shard(prompt_ids)

    images = pipeline(prompt_ids, params, prng_seed, num_inference_steps, jit=True).images
    assert images.shape == (8, 1, 16, 16, 3)
    pil = pipeline.numpy_to_pil(np.asarray(images.reshape((num_samples,) + images.shape[-3:])))
    assert [image.size for image in pil] == [(16, 16)] * 8

    # each device's picture is what one device draws
    for i in (0, 5):
        alone = pipeline(prompt_ids[i], single, prng_seed[i], num_inference_steps).images
        assert np.abs(alone - images[i]).max() < 1e-4
    assert np.abs(images[0] - images[1]).max() > 0.05

    negative = shard(pipeline.prepare_inputs(["blurry"] * 8))
    other = pipeline(prompt_ids, params, prng_seed, num_inference_steps, neg_prompt_ids=negative, jit=True).images
    assert np.abs(images - other).max() > 1e-4
    weak = pipeline(prompt_ids, params, prng_seed, num_inference_steps, guidance_scale=jnp.ones((8, 1)), jit=True)
    without = pipeline(
        prompt_ids, params, prng_seed, num_inference_steps, guidance_scale=1.0, neg_prompt_ids=negative, jit=True
    )
    assert np.abs(weak.images - without.images).max() < 1e-5  # at 1 the negative prompt has no part
    for wrong in ({"params": single, "jit": True}, {"params": params, "jit": False}):
        try:
            pipeline(prompt_ids if wrong["jit"] else prompt_ids[0], prng_seed=prng_seed, **wrong)
        except InvalidArgument as error:
            assert "replicate" in str(error)
        else:
            raise AssertionError
    return pipeline


def image_to_image():
    rng = jax.random.PRNGKey(0)
    init_img = picture(0).resize((48, 32))
    prompts = "A fantasy landscape, trending on artstation"

    pipeline, params = FlaxStableDiffusionImg2ImgPipeline.from_pretrained(
        checkpoint, revision="flax", dtype=jnp.bfloat16,
    )  # fmt: skip

    num_samples = jax.device_count()
    rng = jax.random.split(rng, jax.device_count())
    prompt_ids, processed_image = pipeline.prepare_inputs(
        prompt=[prompts] * num_samples, image=[init_img] * num_samples
    )
    p_params = replicate(params)
    prompt_ids = shard(prompt_ids)
    processed_image = shard(processed_image)

    output = pipeline(
        prompt_ids=prompt_ids,
        image=processed_image,
        params=p_params,
        prng_seed=rng,
        strength=0.75,
        num_inference_steps=4,
        jit=True,
        height=32,
        width=32).images  # fmt: skip

    output_images = pipeline.numpy_to_pil(np.asarray(output.reshape((num_samples,) + output.shape[-3:])))
    assert [image.size for image in output_images] == [(32, 32)] * 8
    assert params["unet"]["conv_in.weight"].dtype == jnp.bfloat16
    try:
        pipeline(prompt_ids, processed_image, p_params, rng, height=64, jit=True)
    except InvalidArgument as error:
        assert "prepared pictures of 32x32" in str(error)
    else:
        raise AssertionError
    assert np.isfinite(np.asarray(output)).all()


def inpaint():
    init_image = picture(1)
    mask_image = Image.fromarray(np.pad(np.full((16, 16), 255, np.uint8), 8))

    pipeline, params = FlaxStableDiffusionInpaintPipeline.from_pretrained(inpainting)

    prompt = "Face of a yellow cat, high resolution, sitting on a park bench"
    prng_seed = jax.random.PRNGKey(0)
    num_inference_steps = 3

    num_samples = jax.device_count()
    prompt = num_samples * [prompt]
    init_image = num_samples * [init_image]
    mask_image = num_samples * [mask_image]
    prompt_ids, processed_masked_images, processed_masks = pipeline.prepare_inputs(prompt, init_image, mask_image)

    # shard inputs and rng
    params = replicate(params)
    prng_seed = jax.random.split(prng_seed, jax.device_count())
    prompt_ids = shard(prompt_ids)
    processed_masked_images = shard(processed_masked_images)
    processed_masks = shard(processed_masks)

    images = pipeline(
        prompt_ids, processed_masks, processed_masked_images, params, prng_seed, num_inference_steps, jit=True
    ).images
    images = pipeline.numpy_to_pil(np.asarray(images.reshape((num_samples,) + images.shape[-3:])))
    assert [image.size for image in images] == [(32, 32)] * 8


def meshes():
    """Five pictures on meshes of 8x1, 4x2 and 1x1: what does not divide is filled up and cut off."""
    arguments = {"seed": 3, "num_inference_steps": 3, "output_type": "latent"}
    prompts = ["a", "b", "c", "d", "e"]
    drawn = {}
    for data, model in ((1, 1), (8, 1), (4, 2)):
        pipe = diffrt.flax.load(checkpoint, data=data, model_parallel=model)
        weight = pipe._model.params["unet"]["mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"]
        assert weight.sharding.shard_shape(weight.shape)[0] * model == weight.shape[0]
        drawn[data, model] = pipe(prompts, **arguments).images
        assert drawn[data, model].shape == (5, 4, 8, 8)
    for latents in drawn.values():
        assert np.linalg.norm(latents - drawn[1, 1]) < 1e-5 * np.linalg.norm(latents)
    for data, model in ((3, 3), (None, 3), (0, 1), (2, "2")):
        try:
            diffrt.flax.load(checkpoint, data=data, model_parallel=model)
        except InvalidArgument as error:
            assert "mesh" in str(error)
        else:
            raise AssertionError


for part in (text_to_image, image_to_image, inpaint, meshes):
    part()
    print(part.__name__, "ok", flush=True)
