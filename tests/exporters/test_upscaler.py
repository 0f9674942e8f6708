"""The x4 upscaler, whole pictures against diffusers' pipeline: same seed, same scheduler config."""

import diffusers
import numpy as np
import pytest
import torch

import exporters
from diffrt.errors import CheckpointError, InvalidArgument
from exporters.checkpoint import open_checkpoint
from tests.checkpoints import SCHEDULER
from tests.conftest import kept
from tests.exporters.mini import UNET, VAE, edit, write_mini
from tests.exporters.test_image_tasks import Side, picture, side
from tests.exporters.test_pictures import assert_same

ARGUMENTS = {"prompt": "a red apple", "num_inference_steps": 5, "guidance_scale": 6.0, "output_type": "np"}


@pytest.fixture(scope="module")
def upscaling(tmp_path_factory) -> Side:
    """Of pictures x 2, its autoencoder's factor."""
    pipeline = diffusers.StableDiffusionUpscalePipeline

    def make(folder):
        write_mini(folder / "plain", "2026")
        plain = diffusers.StableDiffusionPipeline.from_pretrained(folder / "plain")
        torch.manual_seed(1)
        blind = (True, False)
        unet = diffusers.UNet2DConditionModel(
            **UNET, in_channels=7, num_class_embeds=1000, only_cross_attention=blind, use_linear_projection=True
        )
        for parameter in unet.parameters():
            parameter.data += torch.randn_like(parameter) * 0.05
        pipeline(
            unet=unet, vae=diffusers.AutoencoderKL(**VAE, scaling_factor=0.08333), text_encoder=plain.text_encoder,
            tokenizer=plain.tokenizer, scheduler=plain.scheduler,
            low_res_scheduler=diffusers.DDPMScheduler.from_config(SCHEDULER),
        ).save_pretrained(folder / "checkpoint")  # fmt: skip
        exporters.export(folder / "checkpoint", folder / "bundle", verify=False)

    return side(kept("upscaler", tmp_path_factory, make), pipeline)


def check(upscaling, image, seeds=(5, 6), **arguments):
    """Ours and the reference, a picture for each seed: it noises one image for all results."""
    given = ARGUMENTS | {"image": image} | arguments
    out = upscaling.ours(seed=list(seeds), num_images_per_prompt=len(seeds), **given)
    expected = [upscaling.theirs(generator=torch.Generator("cpu").manual_seed(seed), **given).images for seed in seeds]
    assert_same(out.images, np.concatenate(expected))
    return out


@pytest.mark.parametrize(("name", "level"), [("PNDMScheduler", 20), ("EulerDiscreteScheduler", 350)])
def test_pictures_equal(upscaling, name, level):
    upscaling.sample(name)
    out = check(upscaling, picture(20, 24), noise_level=level)
    assert out.images.shape == (2, 40, 48, 3)
    assert out.parameters[0]["noise_level"] == level and out.parameters[0]["height"] == 40


def test_unguided_and_odd_sizes(upscaling):
    """A picture is brought to a multiple of the factor by cubic interpolation, and not as others are."""
    upscaling.sample("DDIMScheduler")
    check(upscaling, picture(21, 25), seeds=[5], guidance_scale=1.0, noise_level=0, eta=0.5)


def test_several_prompts_and_pictures(upscaling):
    upscaling.sample("DDIMScheduler")
    given = ARGUMENTS | {"prompt": ["a red apple", "the"], "image": [picture(20, 24), picture(20, 24, seed=1)]}
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in (5, 6)]
    assert_same(upscaling.ours(seed=5, **given).images, upscaling.theirs(generator=generators, **given).images)


def test_the_level_acts(upscaling):
    given = ARGUMENTS | {"image": picture(20, 24), "seed": 5}
    pictures = [upscaling.ours(noise_level=level, **given).images for level in (0, 100)]
    assert np.abs(pictures[0] - pictures[1]).max() > 0.02


@pytest.mark.parametrize("size", [(8, 8), (9, 11)])
def test_unet(upscaling, size):
    rng = np.random.default_rng(0)
    sample, context = (rng.standard_normal(shape, dtype=np.float32) for shape in ((2, 7, *size), (2, 77, 32)))
    levels = np.array([3, 347])
    with torch.no_grad():
        expected = upscaling.theirs.unet(
            torch.from_numpy(sample), 300, torch.from_numpy(context), class_labels=torch.from_numpy(levels)
        ).sample.numpy()
    told = {"encoder_hidden_states": context, "noise_level": levels}
    got = upscaling.ours._parts.denoiser(sample, 300.0, told)
    assert np.linalg.norm(got - expected) < 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "has no text-to-image: give it an image, a prompt that says what is in it"),
        ({"image": picture(), "height": 128}, "height and width are given, and are 2 times the image's"),
        ({"image": picture(), "noise_level": 351}, "give a whole number from 0 to 350"),
        ({"image": picture(1, 30)}, "at least 2x2 are needed"),
        ({"image": np.zeros((1, 4, 8, 8), np.float32)}, "upscales pictures"),
    ],
)
def test_what_is_asked_of_it(upscaling, arguments, says):
    with pytest.raises(InvalidArgument, match=says):
        upscaling.ours(**{"prompt": "a"} | arguments)


def test_configs_that_do_not_fit(upscaling, tmp_path):
    checkpoint = tmp_path / "checkpoint"
    upscaling.theirs.save_pretrained(checkpoint)
    edit(checkpoint / "unet" / "config.json", only_cross_attention=True)
    _, unet, *_ = open_checkpoint(checkpoint).components
    with pytest.raises(CheckpointError, match="only_cross_attention"):
        unet.build(open_checkpoint(checkpoint).configs["unet"])
    edit(checkpoint / "unet" / "config.json", num_class_embeds=100)
    with pytest.raises(CheckpointError, match="350 levels of noise"):
        _ = open_checkpoint(checkpoint).components
    edit(checkpoint / "unet" / "config.json", in_channels=4)
    edit(checkpoint / "model_index.json", _class_name="StableDiffusionPipeline")
    with pytest.raises(CheckpointError, match="only an upscaler's is told of classes"):
        _ = open_checkpoint(checkpoint).components
