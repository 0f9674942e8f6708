"""Variations of a picture, whole pictures against diffusers' pipeline: same seed, same scheduler config."""

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

import exporters
from diffrt.errors import InvalidArgument
from tests.checkpoints import SCHEDULER
from tests.conftest import kept
from tests.exporters.mini import UNET, VAE
from tests.exporters.test_image_tasks import Side, picture, side
from tests.exporters.test_pictures import assert_same

SIDE = 28
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
          "image_size": SIDE, "patch_size": 14, "projection_dim": 32}  # fmt: skip
ARGUMENTS = {"num_inference_steps": 5, "guidance_scale": 6.0, "output_type": "np", "height": 32, "width": 24}


@pytest.fixture(scope="module")
def varying(tmp_path_factory) -> Side:
    pipeline = diffusers.StableDiffusionImageVariationPipeline

    def make(folder):
        torch.manual_seed(2)
        unet = diffusers.UNet2DConditionModel(**UNET)
        image_encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION))
        for parameter in (*unet.parameters(), *image_encoder.parameters()):
            parameter.data += torch.randn_like(parameter) * 0.05
        size = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
        pipeline(
            vae=diffusers.AutoencoderKL(**VAE), image_encoder=image_encoder, unet=unet,
            scheduler=diffusers.PNDMScheduler.from_config(SCHEDULER | {"skip_prk_steps": True}), safety_checker=None,
            feature_extractor=CLIPImageProcessorPil(**size), requires_safety_checker=False,
        ).save_pretrained(folder / "checkpoint")  # fmt: skip
        exporters.export(folder / "checkpoint", folder / "bundle")

    return side(kept("image-variation", tmp_path_factory, make), pipeline)


@pytest.mark.parametrize("guidance", [6.0, 1.0])
@pytest.mark.parametrize("name", ["PNDMScheduler", "EulerAncestralDiscreteScheduler"])
def test_pictures_equal(varying, name, guidance):
    varying.sample(name)
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in (5, 6)]
    given = ARGUMENTS | {"image": picture(40, 61), "num_images_per_prompt": 2, "guidance_scale": guidance}
    out = varying.ours(seed=5, **given)
    assert_same(out.images, varying.theirs(generator=generators, **given).images)
    assert out.parameters[0]["task"] == "variation" and out.prompt_embeds.shape == (1, 1, 32)


def test_several_pictures(varying):
    varying.sample("DDIMScheduler")
    given = ARGUMENTS | {"image": [picture(40, 61), picture(80, 33, seed=1)], "eta": 0.5}
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in (5, 6)]
    assert_same(varying.ours(seed=5, **given).images, varying.theirs(generator=generators, **given).images)


def test_the_picture_acts(varying):
    given = ARGUMENTS | {"seed": 5}
    red, green = (varying.ours(image=Image.new("RGB", (30, 30), name), **given).images for name in ("red", "green"))
    assert np.abs(red - green).max() > 0.02


def test_what_it_sees(varying):
    """The size of a picture is not the size of the result."""
    pictures = [picture(40, 61), picture(33, 33, seed=1)]
    pixels = varying.theirs.feature_extractor(pictures, return_tensors="pt").pixel_values
    with torch.no_grad():
        expected = varying.theirs.image_encoder(pixels).image_embeds.numpy()
    for given in (pictures, [np.asarray(each) for each in pictures], [np.asarray(p) / 255 for p in pictures]):
        out = varying.ours(image=given, num_inference_steps=1, seed=1, output_type="latent")
        assert np.linalg.norm(out.prompt_embeds[:, 0] - expected) < 1e-5 * np.linalg.norm(expected)
        assert out.latents.shape == (2, 4, 8, 8)


@pytest.mark.parametrize("size", [(8, 8), (9, 11)])
def test_unet(varying, size):
    rng = np.random.default_rng(0)
    sample, context = (rng.standard_normal(shape, dtype=np.float32) for shape in ((2, 4, *size), (2, 1, 32)))
    with torch.no_grad():
        expected = varying.theirs.unet(torch.from_numpy(sample), 300, torch.from_numpy(context)).sample.numpy()
    got = varying.ours._parts.denoiser(sample, 300.0, {"encoder_hidden_states": context})
    assert np.linalg.norm(got - expected) < 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "give an image"),
        ({"prompt": "a"}, "takes none: call it with image alone"),
        ({"image": picture(), "batch_size": 2}, "neither class_labels nor batch_size"),
        ({"image": picture(), "strength": 0.5}, "strength is given, and goes with"),
        ({"image": picture(), "mask_image": picture()}, "mask_image is given, and goes with inpaint"),
        ({"image": np.zeros((1, 4, 8, 8), np.float32)}, "image is an array of shape"),
    ],
)
def test_what_is_asked_of_it(varying, arguments, says):
    with pytest.raises(InvalidArgument, match=says):
        varying.ours(**arguments)
