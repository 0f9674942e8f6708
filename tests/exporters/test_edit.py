"""InstructPix2Pix, whole pictures against diffusers' pipeline: same seed, same scheduler config."""

import diffusers
import numpy as np
import pytest
import torch

import exporters
from diffrt.errors import CheckpointError, InvalidArgument
from exporters.checkpoint import open_checkpoint
from tests.conftest import kept
from tests.exporters.mini import UNET, edit, write_mini
from tests.exporters.test_image_tasks import Side, picture, side
from tests.exporters.test_pictures import assert_same

ARGUMENTS = {"num_inference_steps": 5, "guidance_scale": 6.0, "image_guidance_scale": 2.0}


def write(folder, pipeline=diffusers.StableDiffusionInstructPix2PixPipeline, channels=8, **more):
    """A checkpoint whose UNet takes so many channels."""
    write_mini(folder / "plain", "2026")
    plain = diffusers.StableDiffusionPipeline.from_pretrained(folder / "plain")
    torch.manual_seed(1)
    unet = diffusers.UNet2DConditionModel(**UNET, in_channels=channels)
    for parameter in unet.parameters():  # else it hardly heeds what it is told
        parameter.data += torch.randn_like(parameter) * 0.05
    parts = {name: getattr(plain, name) for name in ("vae", "text_encoder", "tokenizer", "scheduler")}
    pipeline(unet=unet, **parts, **more).save_pretrained(folder / "checkpoint")
    return folder / "checkpoint"


@pytest.fixture(scope="module")
def editing(tmp_path_factory) -> Side:
    def make(folder):
        exporters.export(write(folder, safety_checker=None, feature_extractor=None), folder / "bundle", verify=False)

    return side(kept("edit", tmp_path_factory, make), diffusers.StableDiffusionInstructPix2PixPipeline)


@pytest.mark.parametrize("name", ["PNDMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"])
def test_pictures_equal(editing, name):
    editing.sample(name)
    editing.check(picture(40, 48), size={}, **ARGUMENTS)


def test_unguided(editing):
    editing.sample("DDIMScheduler")
    editing.check(picture(40, 48), size={}, **ARGUMENTS | {"guidance_scale": 1.0})


def test_several_prompts_and_pictures(editing):
    editing.sample("DDIMScheduler")
    given = ARGUMENTS | {"image": [picture(40, 48), picture(40, 48, seed=1)], "output_type": "np", "eta": 0.5}
    given |= {"prompt": ["a red apple", "the"], "negative_prompt": ["apple", "red"]}
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in (3, 4)]
    out = editing.ours(seed=3, **given)
    assert_same(out.images, editing.theirs(generator=generators, **given).images)
    assert out.parameters[0]["image_guidance_scale"] == 2.0 and "strength" not in out.parameters[0]


def test_both_scales_act(editing):
    editing.sample("DDIMScheduler")
    given = {"image": picture(40, 48), "seed": 3, "num_inference_steps": 4, "output_type": "np"}
    pictures = [
        editing.ours("a red apple", guidance_scale=words, image_guidance_scale=image, **given).images
        for words, image in ((6.0, 2.0), (3.0, 2.0), (6.0, 1.5), (1.0, 2.0))
    ]
    assert all(np.abs(a - b).max() > 0.02 for i, a in enumerate(pictures) for b in pictures[:i])
    assert np.array_equal(editing.ours("a red apple", guidance_scale=6.0, **given).images, pictures[2])


def test_a_picture_or_its_latents(editing):
    given = ARGUMENTS | {"prompt": "a", "seed": 3, "output_type": "np"}
    pixels = np.asarray(picture(40, 48), np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
    latents, _ = editing.ours._parts.encoder(pixels)
    expected = editing.ours(image=picture(40, 48), **given).images
    np.testing.assert_allclose(editing.ours(image=latents, **given).images, expected, atol=1e-4)


@pytest.mark.parametrize("size", [(8, 8), (9, 11)])
def test_unet(editing, size):
    """A picture's latents come scaled, and it takes them as learned."""
    rng = np.random.default_rng(0)
    sample, context = (rng.standard_normal(shape, dtype=np.float32) for shape in ((2, 8, *size), (2, 77, 32)))
    as_learned = torch.from_numpy(sample.copy())
    as_learned[:, 4:] /= editing.theirs.vae.config.scaling_factor
    with torch.no_grad():
        expected = editing.theirs.unet(as_learned, 300, torch.from_numpy(context)).sample.numpy()
    got = editing.ours._parts.denoiser(sample, 300.0, {"encoder_hidden_states": context})
    assert np.linalg.norm(got - expected) < 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "has no text-to-image: give it an image and a prompt that says what to change"),
        ({"image": picture(), "mask_image": picture().convert("L")}, "has no inpaint"),
        ({"image": picture(), "strength": 0.5}, "strength is given, and goes with image-to-image or inpaint"),
        ({"image": picture(), "image_guidance_scale": 0.5}, "give at least 1"),
        ({"image": picture(), "guidance_rescale": 0.5}, "editing is guided by two"),
        ({"image": picture(), "guidance_interval": (0, 0.5)}, "guidance_interval is for guidance by one scale"),
        ({"image": picture(), "prompt": "a AND b", "weighting": "scale"}, "AND is for guidance by one scale"),
    ],
)
def test_what_is_asked_of_it(editing, arguments, says):
    with pytest.raises(InvalidArgument, match=says):
        editing.ours(**{"prompt": "a"} | arguments)


def test_channels_that_do_not_fit(editing, tmp_path):
    checkpoint = write(tmp_path, channels=9, safety_checker=None, feature_extractor=None)
    with pytest.raises(CheckpointError, match=r"takes 9 .* take 8 \(a picture's latents\)"):
        _ = open_checkpoint(checkpoint).components
    edit(checkpoint / "unet" / "config.json", in_channels=8)
    assert [each.name for each in open_checkpoint(checkpoint).components][1] == "unet"
    edit(checkpoint / "vae" / "config.json", shift_factor=0.1)
    with pytest.raises(CheckpointError, match="shift_factor"):
        _ = open_checkpoint(checkpoint).components
