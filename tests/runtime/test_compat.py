"""The old classes' names: diffusers' own ONNX pipelines draw the same pictures from the same folders and states."""

import inspect
import subprocess
import sys
import warnings

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from diffrt import compat
from diffrt.compat.base import named
from diffrt.errors import BundleError, InvalidArgument, ProviderError
from diffrt.schedulers import EulerDiscreteScheduler
from tests.conftest import made
from tests.exporters import test_sdxl
from tests.foreign_folders import INT32, INT64, write_foreign

PROVIDER = "CPUExecutionProvider"
SIZE = {"height": 64, "width": 72}
CALL = {"num_inference_steps": 4, "guidance_scale": 4.0, "output_type": "np"}
RANDOM = np.random.RandomState(1)
PICTURE = Image.fromarray(RANDOM.randint(0, 256, (9, 8, 3)).astype(np.uint8)).resize((96, 80))
MASK = Image.fromarray((RANDOM.rand(9, 8) > 0.5).astype(np.uint8) * 255).resize((96, 80))
ONNX = ("OnnxStableDiffusionPipeline", "OnnxStableDiffusionImg2ImgPipeline", "OnnxStableDiffusionInpaintPipeline")


def pair(kind, folder, scheduler=None):
    """(ours, theirs)"""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = getattr(diffusers, kind).from_pretrained(folder, provider=PROVIDER)
    theirs.set_progress_bar_config(disable=True)
    ours = getattr(compat, kind).from_pretrained(folder, provider=PROVIDER)
    if scheduler:
        theirs.scheduler = getattr(diffusers, scheduler).from_config(theirs.scheduler.config)
        ours.scheduler = theirs.scheduler
        assert type(ours.scheduler).__name__ == scheduler
    return ours, theirs


@pytest.fixture(scope="module")
def folder(sd1_bundle, tmp_path_factory):
    return write_foreign(sd1_bundle, tmp_path_factory.mktemp("old") / "sd", "script", ids=INT32, steps="batch")


xl_folder = test_sdxl.folder  # the fixture


@pytest.fixture(scope="module")
def inpaint_folder(tmp_path_factory):
    bundle = made("inpaint", "2026", tmp_path_factory) / "bundle"
    place = tmp_path_factory.mktemp("old") / "inpaint"
    return write_foreign(bundle, place, "script", ids=INT32, time=INT64, steps="batch")


def state(seed=0):
    return np.random.RandomState(seed)


def assert_same(images, expected):
    assert images.shape == expected.shape
    assert expected.std() > 0.02
    assert np.abs(np.round(images * 255) - np.round(expected * 255)).max() <= 1


@pytest.mark.parametrize("scheduler", [None, "DDIMScheduler", "DPMSolverMultistepScheduler"])
def test_text_to_image(folder, scheduler):
    ours, theirs = pair("OnnxStableDiffusionPipeline", folder, scheduler)
    told = {ours: [], theirs: []}
    images = [
        pipe("a red apple", negative_prompt="the", num_images_per_prompt=2, generator=state(), **SIZE, **CALL,
             callback=lambda i, t, x, pipe=pipe: told[pipe].append((i, float(t), x.shape)), callback_steps=2).images
        for pipe in (ours, theirs)
    ]  # fmt: skip
    assert_same(*images)
    if scheduler:  # of PNDM's they tell every evaluation, and here it is every step
        assert [(i, shape) for i, _, shape in told[ours]] == [(i, shape) for i, _, shape in told[theirs]]
        np.testing.assert_allclose([t for _, t, _ in told[ours]], [t for _, t, _ in told[theirs]], atol=1e-3)


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("scheduler", [None, "DDIMScheduler"])
def test_image_to_image(folder, scheduler, strength):
    ours, theirs = pair("OnnxStableDiffusionImg2ImgPipeline", folder, scheduler)
    images = [
        pipe("a red apple", PICTURE, strength, generator=state(5), num_images_per_prompt=2, **CALL).images
        for pipe in (ours, theirs)
    ]
    assert_same(*images)


def test_inpaint(inpaint_folder):
    ours, theirs = pair("OnnxStableDiffusionInpaintPipeline", inpaint_folder)
    images = [pipe("a red apple", PICTURE, MASK, generator=state(5), **SIZE, **CALL).images for pipe in (ours, theirs)]
    assert_same(*images)


def test_what_a_call_gives(folder):
    pipe = compat.OnnxStableDiffusionPipeline.from_pretrained(folder, provider=PROVIDER, safety_checker=None)
    arguments = {**CALL, **SIZE, "num_inference_steps": 1, "output_type": "pil"}
    np.random.seed(3)  # noqa: NPY002 - what users of those classes do
    out = pipe("apple", **arguments)
    assert isinstance(out.images[0], Image.Image)
    assert out[0] is out.images
    assert out.nsfw_content_detected is None
    images, nsfw = pipe("apple", generator=state(3), return_dict=False, **arguments)
    assert nsfw is None
    np.testing.assert_array_equal(images[0], out.images[0])
    latents = state(3).randn(1, 4, 8, 9).astype(np.float32)
    np.testing.assert_array_equal(pipe("apple", latents=latents, **arguments).images[0], images[0])


def test_fresh_noise_is_of_the_same_state(folder):
    pipe = compat.OnnxStableDiffusionPipeline.from_pretrained(folder)
    pipe.scheduler = diffusers.DDIMScheduler.from_config(dict(pipe.scheduler.config))
    first, again, other = (pipe("apple", eta=1.0, generator=state(s), **SIZE, **CALL).images for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.02


@pytest.mark.parametrize("kind", ONNX)
def test_signatures(kind):
    """Names, order and defaults of the arguments."""
    ours, theirs = (inspect.signature(getattr(module, kind).__call__) for module in (compat, diffusers))
    assert list(ours.parameters) == list(theirs.parameters)
    for name, parameter in theirs.parameters.items():
        if (kind, name) != ("OnnxStableDiffusionImg2ImgPipeline", "image"):  # None there, and refused
            assert ours.parameters[name].default == parameter.default


@pytest.fixture(scope="module")
def torch_parts(sd1_checkpoint):
    parts = diffusers.StableDiffusionPipeline.from_pretrained(sd1_checkpoint, safety_checker=None).components
    return parts | {"requires_safety_checker": False}


@pytest.mark.parametrize("eta", [0.0, 0.6])
def test_optimum_draws_from_one_torch_generator(sd1_bundle, torch_parts, eta):
    reference = diffusers.StableDiffusionPipeline(**torch_parts)
    reference.set_progress_bar_config(disable=True)
    pipe = compat.ORTStableDiffusionPipeline.from_pretrained(sd1_bundle, provider=PROVIDER)
    pipe.scheduler = reference.scheduler = diffusers.DDIMScheduler.from_config(reference.scheduler.config)
    arguments = {"num_images_per_prompt": 2, "eta": eta, **CALL}
    images, expected = (
        each("a red apple", generator=torch.Generator("cpu").manual_seed(9), **arguments).images
        for each in (pipe, reference)
    )
    assert_same(images, expected)
    if not eta:  # else the second picture's noise comes between
        alone = pipe("a red apple", generator=9, **{**arguments, "num_images_per_prompt": 1}).images
        assert_same(alone, expected[:1])


def test_optimum_from_a_picture(sd1_bundle, torch_parts):
    reference = diffusers.StableDiffusionImg2ImgPipeline(**torch_parts)
    reference.set_progress_bar_config(disable=True)
    pipe = compat.ORTStableDiffusionImg2ImgPipeline.from_pretrained(sd1_bundle)
    images, expected = (
        each("a red apple", image=PICTURE, strength=0.5, num_images_per_prompt=2, **CALL,
             generator=torch.Generator("cpu").manual_seed(9)).images
        for each in (pipe, reference)
    )  # fmt: skip
    assert_same(images, expected)


def test_optimum_inpaints(sd1_bundle, torch_parts):
    reference = diffusers.StableDiffusionInpaintPipeline(**torch_parts)
    reference.set_progress_bar_config(disable=True)
    pipe = compat.ORTStableDiffusionInpaintPipeline.from_pretrained(sd1_bundle)
    images, expected = (
        each("a red apple", image=PICTURE, mask_image=MASK, height=80, width=96, strength=0.9, **CALL,
             generator=torch.Generator("cpu").manual_seed(9)).images
        for each in (pipe, reference)
    )  # fmt: skip
    assert_same(images, expected)


@pytest.mark.slow  # an export of its own
def test_optimum_draws_with_xl(xl_folder, tmp_path):
    """From a folder in optimum's layout."""
    folder = write_foreign(xl_folder / "base-bundle", tmp_path / "xl", "optimum")
    reference = diffusers.StableDiffusionXLPipeline.from_pretrained(xl_folder / "base", add_watermarker=False)
    reference.set_progress_bar_config(disable=True)
    pipe = compat.ORTStableDiffusionXLPipeline.from_pretrained(folder, provider=PROVIDER)
    images, expected = (
        each(prompt="a red apple", original_size=(100, 90), num_images_per_prompt=2, **CALL,
             generator=torch.Generator("cpu").manual_seed(9)).images
        for each in (pipe, reference)
    )  # fmt: skip
    assert_same(images, expected)


def test_loading(folder, sd1_checkpoint):
    load = compat.ORTStableDiffusionPipeline.from_pretrained
    pipe = load(folder, providers=[PROVIDER], torch_dtype=torch.float16, use_io_binding=False, token=None)
    assert pipe.to("cpu") is pipe
    pipe.set_progress_bar_config(disable=True)
    assert pipe.scheduler.config["_class_name"] == "PNDMScheduler"
    scheduler = EulerDiscreteScheduler()
    assert load(folder, scheduler=scheduler).scheduler is scheduler
    for given, says in ({"export": True}, "diffrt export"), ({"cache_dir": "x"}, "HF_HOME"), ({"unet": 1}, "unknown"):
        with pytest.raises(InvalidArgument, match=says):
            load(folder, **given)
    with pytest.raises(ProviderError, match="did you mean 'CPUExecutionProvider'"):
        load(folder, provider="CPUExecutionProvder")
    with pytest.raises(ProviderError, match="choose with provider="):
        pipe.to("cuda:0")
    with pytest.raises(BundleError, match="run diffrt export"):
        load(sd1_checkpoint)
    assert named("cpu") == named(PROVIDER) == "cpu"


def test_importing_it_needs_nothing_heavy():
    code = "import sys, diffrt.compat; print({'torch', 'diffusers', 'onnx', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_schedulers_of_2022_are_mended(folder):
    old = diffusers.DDIMScheduler(steps_offset=0, clip_sample=True)
    pipe = compat.OnnxStableDiffusionPipeline.from_pretrained(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = diffusers.OnnxStableDiffusionPipeline(
            *[None] * 5, scheduler=old, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    pipe.scheduler = old
    mended = type(pipe)(pipe.pipeline).scheduler.config
    for key, value in {"steps_offset": 1, "clip_sample": False}.items():
        assert mended[key] == theirs.scheduler.config[key] == value


def test_a_safety_checker_is_not_silently_left_out(folder):
    (folder / "safety_checker").mkdir()
    with pytest.warns(UserWarning, match="safety checker is not run"):
        compat.OnnxStableDiffusionPipeline.from_pretrained(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compat.OnnxStableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    (folder / "safety_checker").rmdir()


@pytest.mark.parametrize("generator", [np.random.default_rng(0), "seed"])
def test_generators_of_other_kinds(folder, generator):
    with pytest.raises(InvalidArgument, match="give a RandomState"):
        compat.OnnxStableDiffusionPipeline.from_pretrained(folder)("a", generator=generator)
    with pytest.raises(InvalidArgument, match="give a seed"):
        compat.ORTStableDiffusionPipeline.from_pretrained(folder)("a", generator=generator)


def test_a_model_not_made_for_it(folder):
    pipe = compat.OnnxStableDiffusionInpaintPipeline.from_pretrained(folder)
    with pytest.raises(ValueError, match="not made for inpainting"):
        pipe("a", PICTURE, MASK, **SIZE, **CALL)
