"""The latent upscaler, whole pictures against diffusers' pipeline: same seed, same scheduler config."""

import diffusers
import numpy as np
import pytest
import torch

import exporters
from diffrt.errors import CheckpointError, InvalidArgument
from exporters.checkpoint import open_checkpoint
from tests.checkpoints import SCHEDULER
from tests.conftest import kept
from tests.exporters.mini import VAE, edit, write_mini
from tests.exporters.test_image_tasks import Side, picture, side
from tests.exporters.test_pictures import assert_same

UNET = {
    "in_channels": 8, "out_channels": 5, "block_out_channels": (32, 32, 64, 64), "norm_num_groups": None,
    "down_block_types": ("KDownBlock2D", *("KCrossAttnDownBlock2D",) * 3), "mid_block_type": None,
    "up_block_types": (*("KCrossAttnUpBlock2D",) * 3, "KUpBlock2D"), "attention_head_dim": 8, "act_fn": "gelu",
    "cross_attention_dim": 32, "time_cond_proj_dim": 160, "conv_in_kernel": 1, "conv_out_kernel": 1,
    "time_embedding_type": "fourier", "timestep_post_act": "gelu", "resnet_time_scale_shift": "scale_shift",
}  # fmt: skip
ARGUMENTS = {"prompt": "a red apple", "num_inference_steps": 5, "guidance_scale": 4.0, "output_type": "np"}


@pytest.fixture(scope="module")
def upscaling(tmp_path_factory) -> Side:
    """Its autoencoder's latents are half as high and wide as pictures."""
    pipeline = diffusers.StableDiffusionLatentUpscalePipeline

    def make(folder):
        write_mini(folder / "plain", "2026")
        plain = diffusers.StableDiffusionPipeline.from_pretrained(folder / "plain")
        torch.manual_seed(1)
        unet = diffusers.UNet2DConditionModel(**UNET)
        for parameter in unet.parameters():
            parameter.data += torch.randn_like(parameter) * 0.05
        pipeline(
            unet=unet, vae=diffusers.AutoencoderKL(**VAE), text_encoder=plain.text_encoder, tokenizer=plain.tokenizer,
            scheduler=diffusers.EulerDiscreteScheduler.from_config(SCHEDULER | {"prediction_type": "original_sample"}),
        ).save_pretrained(folder / "checkpoint")  # fmt: skip
        exporters.export(folder / "checkpoint", folder / "bundle")

    folder = kept("latent-upscaler", tmp_path_factory, make)
    return side(folder, pipeline)


def check(upscaling, image, seeds=(5, 6), **arguments):
    """Ours and the reference, a picture for each seed: it encodes one image for all results."""
    given = ARGUMENTS | {"image": image} | arguments
    out = upscaling.ours(seed=list(seeds), num_images_per_prompt=len(seeds), **given)
    expected = [upscaling.theirs(generator=torch.Generator("cpu").manual_seed(seed), **given).images for seed in seeds]
    assert_same(out.images, np.concatenate(expected))
    return out


@pytest.mark.parametrize("guidance", [4.0, 1.0, 0.0])
def test_pictures_equal(upscaling, guidance):
    out = check(upscaling, picture(32, 48), guidance_scale=guidance)
    assert out.images.shape == (2, 64, 96, 3)


def test_a_negative_prompt_and_levels_of_another_kind(upscaling):
    karras = {"use_karras_sigmas": True}
    before = upscaling.ours.scheduler, upscaling.theirs.scheduler
    upscaling.ours.scheduler = type(before[0]).from_config({**before[0].config, **karras})
    upscaling.theirs.scheduler = type(before[1]).from_config({**before[1].config, **karras})
    check(upscaling, picture(16, 16), seeds=[5], negative_prompt="the apple")
    upscaling.ours.scheduler, upscaling.theirs.scheduler = before


def test_of_latents(upscaling):
    """Those that another model drew."""
    latents = np.random.default_rng(0).standard_normal((1, 4, 8, 16), np.float32)
    out = upscaling.ours(image=latents, seed=5, **ARGUMENTS)
    generator = torch.Generator("cpu").manual_seed(5)
    assert_same(out.images, upscaling.theirs(image=torch.from_numpy(latents), generator=generator, **ARGUMENTS).images)
    assert out.latents.shape == (1, 4, 16, 32)


def test_several_prompts_and_pictures(upscaling):
    given = ARGUMENTS | {"prompt": ["a red apple", "the"], "image": [picture(16, 16), picture(16, 16, seed=1)]}
    out = upscaling.ours(seed=[5, 6], **given)
    for i, seed in enumerate((5, 6)):
        one = given | {"prompt": given["prompt"][i], "image": given["image"][i]}
        expected = upscaling.theirs(generator=torch.Generator("cpu").manual_seed(seed), **one).images
        assert_same(out.images[i : i + 1], expected)


@pytest.mark.parametrize("size", [(16, 16), (24, 40)])
def test_unet(upscaling, size):
    """Told sigma, it gives the picture: what the pipeline makes of the network in each step."""
    rng = np.random.default_rng(0)
    x, smaller = (rng.standard_normal((2, 4, *size), np.float32) for _ in range(2))
    words, pooled = rng.standard_normal((2, 77, 32), np.float32), rng.standard_normal((2, 32), np.float32)
    sigma = 2.5
    told = torch.cat([torch.ones(2, 64), torch.zeros(2, 64), torch.from_numpy(pooled)], dim=1)
    scaled = torch.from_numpy(np.concatenate([x / np.sqrt(sigma**2 + 1), smaller], axis=1)).float()
    with torch.no_grad():
        out = upscaling.theirs.unet(
            scaled, torch.tensor(np.log(sigma) / 4, dtype=torch.float32), torch.from_numpy(words), timestep_cond=told
        ).sample[:, :-1].numpy()  # fmt: skip
    expected = x / (sigma**2 + 1) + sigma / np.sqrt(sigma**2 + 1) * out
    conditions = {"encoder_hidden_states": words, "text_embeds": pooled}
    got = upscaling.ours._parts.denoiser(np.concatenate([x, smaller], axis=1), sigma, conditions)
    assert np.linalg.norm(got - expected) < 1e-5 * np.linalg.norm(expected)


def test_sizes_that_the_reference_cannot(upscaling):
    """A picture's own, down to a multiple of 8, whether latents can be halved three times or not."""
    out = upscaling.ours(image=picture(51, 41), seed=5, **ARGUMENTS)
    assert out.images.shape == (1, 96, 80, 3) and np.isfinite(out.images).all()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "has no text-to-image: give it an image or latents, a prompt that says what is in it"),
        ({"image": picture(), "height": 128}, "height and width are given, and are 2 times the image's"),
        ({"image": picture(8, 16)}, r"16x32 pixels \(HxW\): give an image for 32x32 or more"),
        ({"image": picture(), "noise_level": 20}, "goes with upscale"),
        ({"image": np.zeros((2, 4, 8, 8), np.float32)}, r"float32 array of shape \[1, 4, 8, 8\]"),
    ],
)
def test_what_is_asked_of_it(upscaling, arguments, says):
    with pytest.raises(InvalidArgument, match=says):
        upscaling.ours(**{"prompt": "a"} | arguments)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"block_out_channels": [32, 64, 64, 64]}, "the last two, and no others, must be 64"),
        ({"down_block_types": ["KDownBlock2D"] * 4}, "allowed: KDownBlock2D, KCrossAttnDownBlock2D"),
        ({"attention_head_dim": 12}, "not multiples of 32 and of attention_head_dim = 12"),
        ({"act_fn": "silu"}, "implements 'gelu'"),
    ],
)
def test_configs_that_do_not_fit(upscaling, tmp_path, change, says):
    checkpoint = tmp_path / "checkpoint"
    upscaling.theirs.save_pretrained(checkpoint)
    edit(checkpoint / "unet" / "config.json", **change)
    opened = open_checkpoint(checkpoint)
    with pytest.raises(CheckpointError, match=says):
        opened.components[1].build(opened.configs["unet"])
    edit(checkpoint / "unet" / "config.json", time_cond_proj_dim=128)
    with pytest.raises(CheckpointError, match="time_cond_proj_dim = 128; with this autoencoder and text encoder it"):
        _ = open_checkpoint(checkpoint).components
