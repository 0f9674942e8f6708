"""The model inside the package: a checked bundle of bounded size that draws what is asked, without a download."""

import numpy as np
import pytest
from PIL import Image

import diffrt
from diffrt.cli import run
from diffrt.image import read_parameters
from diffrt.pipeline import BUNDLES

LARGEST = 25e6  # bytes


@pytest.fixture(scope="module")
def pipe():
    return diffrt.load("emoji")


def test_the_bundle_is_small_and_carries_its_certificate(pipe):
    assert sum(f.stat().st_size for f in BUNDLES["emoji"].rglob("*") if f.is_file()) <= LARGEST
    certificate = pipe.bundle.manifest.certificate
    assert set(certificate["components"]) == {"text_encoder", "unet", "vae_encoder", "vae_decoder"}
    assert certificate["picture"]["psnr_db"] >= certificate["picture"]["tolerance_db"]


def test_verify_on_this_machine(capsys):
    assert run(["verify", str(BUNDLES["emoji"])]) == 0


def test_one_command_writes_a_picture_that_can_be_drawn_again(tmp_path, capsys, pipe):
    out = tmp_path / "apple.png"
    assert run(["generate", "a red apple", "-o", str(out), "--seed", "7", "--quiet"]) == 0
    parameters = read_parameters(out)
    assert parameters["seed"] == 7
    assert parameters["rng"] == "torch-cpu"
    keys = ("num_inference_steps", "guidance_scale", "seed", "rng")
    again = pipe(parameters["prompt"], **{key: parameters[key] for key in keys}).images[0]
    assert np.array_equal(np.asarray(Image.open(out)), np.asarray(again))


def test_the_default_is_a_few_steps_at_128_pixels(pipe):
    defaults = pipe.bundle.manifest.defaults
    assert (defaults.height, defaults.width) == (128, 128)
    assert defaults.num_inference_steps <= 8


def test_few_steps_draw_what_many_draw(pipe):
    """The picture of the default is close to where the sampler converges."""
    few, many = (pipe("a red apple", seed=7, num_inference_steps=n, output_type="np").images[0] for n in (None, 40))
    assert -10 * np.log10(np.mean((few - many) ** 2)) > 22


@pytest.mark.parametrize(("prompt", "channel"), [("a red apple", 0), ("a green apple", 1), ("a blue apple", 2)])
def test_colours_are_obeyed(pipe, prompt, channel):
    """The mean of what is not white leans to the colour asked for."""
    picture = np.asarray(pipe(prompt, seed=1).images[0]).astype(float)
    things = picture[picture.min(axis=-1) < 200]
    assert len(things) > 1600  # of 16384 pixels: something was drawn
    assert len(things) < 14400  # on white
    assert things.mean(axis=0).argmax() == channel


def test_previews_resemble_the_picture(pipe):
    stream = pipe.stream("a red apple", seed=7)
    for step in stream:
        preview = step.preview()
    image = np.asarray(stream.result().images[0]).astype(float)
    small = image.reshape(16, 8, 16, 8, 3).mean(axis=(1, 3))
    assert np.corrcoef(small.ravel(), preview[0].astype(float).ravel())[0, 1] > 0.8
    assert np.abs(preview[0] - small).mean() < 0.5 * np.abs(small.mean((0, 1)) - small).mean()  # nearer than its mean
