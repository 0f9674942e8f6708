"""Image-to-image and inpainting, whole pictures against diffusers' pipelines: same seed, same scheduler config."""

from pathlib import Path
from typing import NamedTuple

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

import diffrt
from diffrt.schedulers import SCHEDULERS
from tests.schedulers.reference import PICTURED

from .test_pictures import assert_same

ARGUMENTS = {"prompt": "a red apple", "negative_prompt": "the apple", "num_inference_steps": 6, "guidance_scale": 6.0}
SEEDS = [11, 12]
SIZE = {"height": 64, "width": 64}


class Side(NamedTuple):
    ours: diffrt.Pipeline
    theirs: diffusers.DiffusionPipeline
    checkpoint: Path

    def sample(self, name: str) -> None:
        """Both use a scheduler."""
        stable_diffusion = {"skip_prk_steps": True}
        self.ours.scheduler = SCHEDULERS[name].from_config({**self.ours.scheduler.config, **stable_diffusion})
        self.theirs.scheduler = getattr(diffusers, name).from_config(
            {**self.theirs.scheduler.config, **stable_diffusion}
        )

    def check(self, image, seeds=SEEDS, size=SIZE, **arguments) -> None:
        """Ours and the reference with an image, a picture for each seed.

        One at a time in the reference: its inpainting draws the posterior of one image once, from the first generator,
        so that a picture depends on its batch.
        """
        given = ARGUMENTS | {"image": image, "output_type": "np"} | arguments
        out = self.ours(seed=seeds, num_images_per_prompt=len(seeds), **given, **size)
        if "mask_image" in arguments:  # from a picture alone the size is the picture's
            given |= size
        expected = [self.theirs(generator=torch.Generator("cpu").manual_seed(seed), **given).images for seed in seeds]
        assert_same(out.images, np.concatenate(expected))


def side(folder: Path, pipeline) -> Side:
    reference = pipeline.from_pretrained(folder / "checkpoint", safety_checker=None)
    reference.set_progress_bar_config(disable=True)
    return Side(diffrt.load(folder / "bundle"), reference, folder / "checkpoint")


@pytest.fixture(scope="module", params=["sd1", "sd2"])
def drawing(request):
    return side(request.getfixturevalue(f"{request.param}_folder"), diffusers.StableDiffusionImg2ImgPipeline)


@pytest.fixture(scope="module", params=["sd1", "sd2", "inpaint"])
def filling(request):
    return side(request.getfixturevalue(f"{request.param}_folder"), diffusers.StableDiffusionInpaintPipeline)


def picture(height=64, width=64, seed=0):
    """Something with soft and hard edges."""
    y, x = np.mgrid[:height, :width] / 32
    rgb = np.stack([np.sin(x + y), np.cos(2 * x), (x > 1) - 0.5 + 0 * y], -1) * 100 + 128
    rgb += np.random.default_rng(seed).normal(0, 12, rgb.shape)
    return Image.fromarray(rgb.clip(0, 255).astype(np.uint8))


def mask(kind="part", height=64, width=64):
    covered = np.full((height, width), 255 * (kind == "all"), np.uint8)
    if kind == "part":
        covered[height // 4 : height // 2 + 3, 5 : width - 9] = 255
        covered[-height // 4 :, ::2] = 140  # just above one half, in lines finer than a latent
    return Image.fromarray(covered)


@pytest.mark.parametrize("strength", [0.2, 0.6, 1.0])
@pytest.mark.parametrize("name", PICTURED)
def test_image_to_image(drawing, name, strength):
    drawing.sample(name)
    drawing.check(picture(), strength=strength)


@pytest.mark.parametrize("strength", [0.4, 1.0])
@pytest.mark.parametrize("name", PICTURED)
def test_inpainting(filling, name, strength):
    filling.sample(name)
    filling.check(picture(), mask_image=mask(), strength=strength)


@pytest.mark.parametrize("kind", ["all", "none"])
def test_masks_of_everything_and_of_nothing(filling, kind):
    filling.sample("EulerDiscreteScheduler")
    filling.check(picture(), mask_image=mask(kind), strength=0.7)


def test_a_mask_of_nothing_keeps_the_picture(sd1_folder):
    """What the autoencoder makes of it, to be exact: inpainting by blending ends with the original's latents."""
    pipe, image = diffrt.load(sd1_folder / "bundle"), picture()
    kept = pipe("a", image=image, mask_image=mask("none"), num_inference_steps=4, seed=3, output_type="np")
    plain = pipe("a", image=image, strength=0, num_inference_steps=4, seed=3, output_type="np")
    np.testing.assert_allclose(kept.images, plain.images, atol=1e-6)


@pytest.mark.parametrize("strength", [0.0, 0.1])
def test_no_step_left(drawing, strength):
    """The reference has no picture for that: the autoencoder's own is the law."""
    out = drawing.ours("a", image=picture(), strength=strength, num_inference_steps=6, seed=4, output_type="np")
    vae = drawing.theirs.vae
    pixels = drawing.theirs.image_processor.preprocess(picture())
    with torch.no_grad():
        latents = vae.encode(pixels).latent_dist.sample(torch.Generator("cpu").manual_seed(4))
        decoded = vae.decode(latents).sample
    assert_same(out.images, drawing.theirs.image_processor.postprocess(decoded, output_type="np"))


def test_odd_sizes(drawing):
    """The picture's own size, down to a multiple of 8, as the reference resizes it."""
    drawing.sample("DDIMScheduler")
    drawing.check(picture(525, 459), seeds=[5], size={}, strength=0.7, num_inference_steps=3, eta=0.5)


def test_odd_sizes_inpainting(filling):
    filling.sample("DDIMScheduler")
    size = {"height": 104, "width": 88}
    arguments = {"mask_image": mask("part", 131, 97), "strength": 0.7, "num_inference_steps": 3, "eta": 0.5}
    filling.check(picture(131, 97), seeds=[5], size=size, **arguments)


def test_several_prompts_and_pictures(filling):
    filling.sample("DPMSolverMultistepScheduler")
    given = {
        "prompt": ["a red apple", "the"], "image": [picture(), picture(seed=1)], "mask_image": [mask(), mask("all")],
        "strength": 0.7, "num_inference_steps": 4, "output_type": "np",
    }  # fmt: skip
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in SEEDS]
    assert_same(filling.ours(seed=SEEDS, **given).images, filling.theirs(generator=generators, **given, **SIZE).images)


def test_unguided(filling):
    filling.sample("PNDMScheduler")
    filling.check(picture(), mask_image=mask(), guidance_scale=1.0)


def test_every_kind_of_picture(sd1_folder, tmp_path):
    pipe = diffrt.load(sd1_folder / "bundle")
    grey = picture().convert("L")
    rgb = grey.convert("RGB")
    clear = rgb.convert("RGBA")
    clear.paste((0, 0, 0, 0), (0, 0, 20, 64))
    white = rgb.copy()
    white.paste("white", (0, 0, 20, 64))
    rgb.save(tmp_path / "a.png")
    groups = [
        [rgb, grey, tmp_path / "a.png", np.asarray(rgb), np.asarray(rgb, np.float32) / np.float32(255)],
        [white, clear],
        [
            rgb.convert("P", palette=Image.Palette.ADAPTIVE),
            rgb.convert("P", palette=Image.Palette.ADAPTIVE).convert("RGB"),
        ],
    ]
    for group in groups:
        outs = [pipe("a", image=one, strength=0.5, num_inference_steps=2, seed=1).images[0].tobytes() for one in group]
        assert len(set(outs)) == 1


@pytest.mark.parametrize(("kind", "filled"), [("sd1", False), ("sd1", True), ("inpaint", True)])
def test_kinds_of_guidance(kind, filled, request):
    """Guidance in no step is none, in every step what it always is; the others draw something else."""
    pipe = diffrt.load(request.getfixturevalue(f"{kind}_folder") / "bundle")
    pipe.scheduler = SCHEDULERS["DDIMScheduler"].from_config({**pipe.scheduler.config, "clip_sample": False})
    given = ARGUMENTS | {"image": picture(), "strength": 0.7, "num_inference_steps": 4, "seed": 3, "output_type": "np"}
    given |= {"mask_image": mask()} if filled else {}

    def drawn(**more):
        return pipe(**(given | more)).images

    assert np.array_equal(drawn(guidance_interval=(0.5, 0.5)), drawn(guidance_scale=1.0))
    assert np.array_equal(drawn(guidance_interval=(0, 1)), drawn())
    plus_plus = {"guidance_scale": 0.6, "cfg_plus_plus": True}
    others = [{}, {"guidance_interval": (0, 0.6)}, {"guidance_rescale": 1.0}, plus_plus]
    pictures = [drawn(**other) for other in others]
    assert all(not np.array_equal(a, b) for i, a in enumerate(pictures) for b in pictures[:i])
