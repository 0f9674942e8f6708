"""Whole generations: equal to diffusers from the same seed, and the same however they are asked for."""

import warnings

import diffusers
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

import diffrt
from diffrt.components.denoiser import Denoiser
from diffrt.errors import BundleError, InvalidArgument, ProviderError
from diffrt.schedulers import SCHEDULERS, DDIMScheduler, DPMSolverSDEScheduler, EulerAncestralDiscreteScheduler
from tests.schedulers.reference import PICTURED

PROMPTS = ["a red apple", "the thing, green"]


@pytest.fixture(scope="module")
def pipe(sd1_bundle):
    return diffrt.load(sd1_bundle)


@pytest.fixture(scope="module")
def pipes(sd1_bundle, sd2_bundle, sd1_checkpoint, sd2_checkpoint):
    """(diffrt, diffrt's own scheduler, diffusers) of both generations of Stable Diffusion."""
    both = {}
    for kind, bundle, checkpoint in (("sd1", sd1_bundle, sd1_checkpoint), ("sd2", sd2_bundle, sd2_checkpoint)):
        reference = StableDiffusionPipeline.from_pretrained(
            checkpoint, safety_checker=None, requires_safety_checker=False
        )
        reference.set_progress_bar_config(disable=True)
        mine = diffrt.load(bundle)
        both[kind] = mine, mine.scheduler, reference
    return both


@pytest.fixture(autouse=True)
def own_schedulers(request):
    """Whatever a test makes the pipelines draw with, the next one finds their own."""
    yield
    for mine, own, reference in request.getfixturevalue("pipes").values() if "pipes" in request.fixturenames else ():
        mine.scheduler = own
        reference.scheduler = getattr(diffusers, type(own).__name__).from_config(dict(own.config))


def compare(mine, reference, seeds, prompt, **arguments):
    """Pictures within 1/255 of diffusers' from the same seeds."""
    images = len(seeds)
    expected = reference(
        prompt, generator=[torch.Generator("cpu").manual_seed(s) for s in seeds], output_type="np", **arguments
    ).images
    got = mine(prompt, seed=seeds, output_type="np", **arguments).images
    assert got.shape == expected.shape == (images, *expected.shape[1:])
    assert expected.std() > 0.02  # a flat picture would prove nothing
    assert np.abs(got - expected).max() <= 1 / 255


@pytest.mark.parametrize("name", [*PICTURED, "CosineDPMSolverMultistepScheduler"])
@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_equals_diffusers(pipes, kind, name):
    mine, own, reference = pipes[kind]
    mine.scheduler = SCHEDULERS[name].from_config(own.config)
    reference.scheduler = getattr(diffusers, name).from_config(reference.scheduler.config)
    compare(mine, reference, [3, 4], PROMPTS, num_inference_steps=6, guidance_scale=5.0, negative_prompt=["dull", ""])
    compare(mine, reference, [11], PROMPTS[0], num_inference_steps=5, guidance_scale=1.0)
    mine.scheduler = own


@pytest.mark.filterwarnings("ignore:Should have")  # torchsde's, of ends that it has rounded
def test_equals_diffusers_with_its_brownian_path(pipes):
    """Of one picture: for several the reference draws one path of all, and each of ours has its own."""
    mine, own, reference = pipes["sd1"]
    mine.scheduler = DPMSolverSDEScheduler.from_config(own.config | {"noise_sampler_seed": 6})
    reference.scheduler = diffusers.DPMSolverSDEScheduler.from_config(reference.scheduler.config, noise_sampler_seed=6)
    compare(mine, reference, [11], PROMPTS[0], num_inference_steps=6, guidance_scale=5.0)
    mine.scheduler = own


def test_equals_diffusers_at_an_odd_size_and_several_pictures(pipes):
    mine, _, reference = pipes["sd1"]
    compare(
        mine, reference, [1, 2, 3, 4], PROMPTS, num_images_per_prompt=2, num_inference_steps=3, height=104, width=88,
        negative_prompt=["one", "two"], guidance_scale=7.5,
    )  # fmt: skip


def test_equals_diffusers_with_eta(pipes):
    mine, own, reference = pipes["sd1"]
    mine.scheduler = DDIMScheduler.from_config(own.config)
    reference.scheduler = diffusers.DDIMScheduler.from_config(reference.scheduler.config)
    compare(mine, reference, [5], PROMPTS[0], num_inference_steps=5, eta=0.7, guidance_scale=3.0)
    mine.scheduler = own


def test_what_comes_out_goes_back_in(pipe):
    first = pipe(PROMPTS, num_inference_steps=4, seed=7, output_type="np", num_images_per_prompt=2)
    assert first.prompt_embeds.shape == first.negative_prompt_embeds.shape == (2, 77, 32)
    again = pipe(
        prompt_embeds=first.prompt_embeds,
        negative_prompt_embeds=first.negative_prompt_embeds,
        latents=diffrt.noise.randn(diffrt.noise.generators(first.seeds), (4, 8, 8)),
        num_inference_steps=4,
        output_type="np",
        num_images_per_prompt=2,
    )
    np.testing.assert_array_equal(again.images, first.images)
    latent = pipe(PROMPTS, num_inference_steps=4, seed=7, output_type="latent", num_images_per_prompt=2)
    np.testing.assert_array_equal(latent.images, first.latents)
    np.testing.assert_array_equal(latent.latents, first.latents)


def test_output_types_show_the_same_picture(pipe):
    arguments = {"num_inference_steps": 3, "seed": 1}
    pil, unit = pipe("a", **arguments).images, pipe("a", output_type="np", **arguments).images
    assert unit.dtype == np.float32
    assert unit.min() >= 0
    assert unit.max() <= 1
    assert np.abs(np.asarray(pil[0]) - unit[0] * 255).max() <= 0.51


@pytest.mark.parametrize("scheduler", [EulerAncestralDiscreteScheduler, DPMSolverSDEScheduler])
def test_a_picture_does_not_depend_on_its_batch(pipe, scheduler):
    pipe.scheduler, own = scheduler.from_config(pipe.scheduler.config), pipe.scheduler
    many = pipe("a red apple", num_inference_steps=4, seed=20, num_images_per_prompt=3, output_type="np")
    for i in range(3):
        one = pipe("a red apple", num_inference_steps=4, seed=20 + i, output_type="np")
        assert np.abs(one.images[0] - many.images[i]).max() < 1e-4
    pipe.scheduler = own


def test_seeds(pipe):
    arguments = {"num_inference_steps": 2, "output_type": "latent"}
    one, two, named = pipe("a", **arguments), pipe("a", **arguments), pipe("a", seed=5, **arguments)
    assert one.seeds != two.seeds
    assert not np.array_equal(one.images, two.images)
    np.testing.assert_array_equal(pipe("a", seed=one.seeds, **arguments).images, one.images)
    assert named.seeds == [5]
    assert named.parameters[0]["seed"] == 5


def test_parameters_repeat_the_picture(pipe):
    first = pipe(
        "a red apple", negative_prompt="dull", num_inference_steps=3, guidance_scale=4, seed=9, output_type="np"
    )
    parameters = dict(first.parameters[0])
    assert parameters.pop("scheduler") == "PNDMScheduler"
    assert parameters.pop("model") == "bundle"
    np.testing.assert_array_equal(pipe(**parameters, output_type="np").images, first.images)


def test_guidance_off_ignores_the_negative_prompt(pipe):
    arguments = {"num_inference_steps": 3, "seed": 1, "guidance_scale": 1.0, "output_type": "latent"}
    plain, negative = pipe("a", **arguments), pipe("a", negative_prompt="b", **arguments)
    np.testing.assert_array_equal(plain.images, negative.images)
    assert plain.negative_prompt_embeds is None


def test_evaluations(pipe, monkeypatch):
    """Guided: one evaluation of twice the batch; unguided: one of the batch itself."""
    sizes = []
    run = Denoiser.__call__
    monkeypatch.setattr(Denoiser, "__call__", lambda self, x, t, e: sizes.append(len(x)) or run(self, x, t, e))
    pipe.scheduler, own = DDIMScheduler.from_config(pipe.scheduler.config), pipe.scheduler
    pipe("a", num_inference_steps=3, guidance_scale=2.0)
    pipe("a", num_inference_steps=3, guidance_scale=1.0)
    pipe.scheduler = own
    assert sizes == [2, 2, 2, 1, 1, 1]


def test_stream(pipe):
    stream = pipe.stream("a red apple", num_inference_steps=5, seed=7)
    previews = []
    for i, step in enumerate(stream):
        assert (step.index, step.total) == (i, 5)
        assert step.latents.shape == (1, 4, 8, 8)
        previews.append(step.preview())
        assert previews[-1].shape == (1, 8, 8, 3)
        assert previews[-1].dtype == np.uint8
    out = stream.result()
    np.testing.assert_array_equal(out.latents, step.latents)
    np.testing.assert_array_equal(out.latents, pipe("a red apple", num_inference_steps=5, seed=7).latents)
    assert stream.result() is out


def test_cancelling(pipe):
    stream = pipe.stream("a", num_inference_steps=50, seed=7)
    next(stream)
    stream.close()
    assert list(stream) == []
    with pytest.raises(InvalidArgument, match="closed before its last step"):
        stream.result()
    half = pipe.stream("a", num_inference_steps=3, seed=7)
    next(half)
    assert len(half.result().images) == 1  # the rest is run


def test_bad_arguments_are_refused_before_anything_runs(pipe):
    with pytest.raises(InvalidArgument, match="height"):
        pipe.stream("a", height=60)
    for arguments, says in (
        ({"num_inference_steps": 5000}, "num_inference_steps"),
        ({"eta": 0.5}, "eta"),
        ({"eta": 1.5}, "eta"),
        ({"prompt_embeds": np.zeros((1, 77, 32), np.float32), "prompt": None, "guidance_scale": 1.0, "eta": -1}, "eta"),
    ):
        with pytest.raises(InvalidArgument, match=says):
            pipe(**{"prompt": "a", "num_inference_steps": 2, **arguments})
    with pytest.raises(InvalidArgument, match="scheduler"):
        pipe.scheduler = "DDIM"


def test_long_prompts_warn(pipe):
    with pytest.warns(UserWarning, match="cut off: 'the tail'"):
        out = pipe("apple " * 75 + "the tail", num_inference_steps=1, seed=1)
    assert out.truncated == ["the tail"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pipe("apple", num_inference_steps=1, seed=1).truncated == []


def test_close_frees_and_a_later_call_opens_again(sd1_bundle):
    pipe = diffrt.load(sd1_bundle)
    first = pipe("a", num_inference_steps=2, seed=1, output_type="np").images
    pipe.close()
    np.testing.assert_array_equal(pipe("a", num_inference_steps=2, seed=1, output_type="np").images, first)


def test_load(sd1_bundle, sd1_checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match=r"'emojy' is neither a bundle's name nor an existing folder; .*emoji"):
        diffrt.load("emojy")
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="a file, not a bundle's folder"):
        diffrt.load("file")
    with pytest.raises(BundleError, match="run diffrt export"):
        diffrt.load(sd1_checkpoint)
    with pytest.raises(ProviderError, match="unknown provider"):
        diffrt.load(sd1_bundle, provider="cpuu")
    (tmp_path / "emoji").symlink_to(sd1_bundle)
    assert diffrt.load("./emoji").bundle.manifest.defaults.scheduler == "PNDMScheduler"


def test_a_fast_load_draws_the_same(sd1_bundle, pipe):
    """Weights used where they lie, by other kernels."""
    ask = {"num_inference_steps": 3, "seed": 5, "output_type": "np"}
    fast = diffrt.load(sd1_bundle, load="fast")
    assert np.abs(fast(PROMPTS[0], **ask).images - pipe(PROMPTS[0], **ask).images).max() <= 1 / 255
    with pytest.raises(InvalidArgument, match="unknown load 'quick': known: fast, full"):
        diffrt.load(sd1_bundle, load="quick")
