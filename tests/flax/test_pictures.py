"""Whole pictures: JAX's loop against ONNX Runtime's, from the same latents, within one level of 255."""

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

import diffrt.flax
from diffrt.errors import InvalidArgument, NumericalError
from diffrt.flax.pipeline import keep_programs
from diffrt.flax.rows import rows_of, segment
from diffrt.schedulers import SCHEDULERS, from_config

FIVE = ["PNDM", "DDIM", "LMSDiscrete", "EulerAncestralDiscrete", "DPMSolverMultistep"]
PROMPT = ["a red apple", "the tree"]


@pytest.fixture
def compiled():
    """The seconds of every compilation there was."""
    seconds = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            seconds.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seconds
    jax.monitoring.unregister_event_duration_listener(listen)


def pictures(out):
    return np.stack([np.asarray(image, np.int16) for image in out.images])


def same(pipes, prompt="a red apple", scheduler=None, **arguments):
    """The pictures of both, which must be equal; those of JAX."""
    drawn = []
    for pipe in pipes:
        own = pipe.scheduler
        pipe.scheduler = from_config(own.config, scheduler)
        try:
            drawn.append(pipe(prompt, rng="philox", **arguments))
        finally:
            pipe.scheduler = own
    got, expected = map(pictures, drawn)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 1
    return got


@pytest.mark.parametrize("scheduler", FIVE)
def test_text_to_image(pipes, latents, scheduler):
    same(pipes("sd1"), scheduler=scheduler, latents=latents, num_inference_steps=4, seed=3)


@pytest.mark.parametrize("name", ["SASolver", "UniPCMultistep", "dpm2-a", "DPMSolverSDE", "LCM"])
def test_more_schedulers(pipes, latents, name):
    """The most slots, two evaluations a step, rows of noise alone, one path of noise for the run: no new program."""
    same(pipes("sd1"), scheduler=name, latents=latents, num_inference_steps=4, seed=3)


def test_every_table_fits_the_program():
    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
    fitting = 0
    for scheduler in SCHEDULERS.values():
        try:
            table = scheduler.from_config(config).table(8)
        except InvalidArgument:
            continue  # not of this model, or of another number of steps
        rows = segment(rows_of(table), 0, table.evals, 32)
        assert rows["W"].shape == (32, 8, 11)
        assert rows["t"].shape == rows["alpha_after"].shape == (32,)
        fitting += 1
    assert fitting > 30


def test_v_prediction(pipes, latents):
    same(pipes("sd2"), latents=latents, num_inference_steps=4, negative_prompt="red")


@pytest.mark.parametrize(
    "guidance",
    [
        {"guidance_rescale": 0.7},
        {"guidance_interval": (0.3, 0.8)},
        {"cfg_plus_plus": True, "guidance_scale": 0.6, "scheduler": "DDIM"},
        {"weighting": "mean", "prompt": "a (red:1.4) apple"},
    ],
    ids=lambda guidance: next(iter(guidance)),
)
def test_guidance(pipes, latents, guidance):
    same(pipes("sd1"), latents=latents, num_inference_steps=4, **guidance)


@pytest.mark.parametrize(
    "guidance", [{"weighting": "empty", "prompt": "a (red:1.4) apple AND the tree"}, {"guidance_scale": 1}]
)
def test_more_conditions_and_none(pipes, photo, guidance):
    """With the UNet that compiles fastest."""
    image, mask = photo
    same(pipes("inpaint"), image=image, mask_image=mask, num_inference_steps=3, seed=3, **guidance)


@pytest.mark.parametrize("scheduler", FIVE)
def test_image_to_image(pipes, photo, scheduler):
    got = same(pipes("sd1"), scheduler=scheduler, image=photo[0], strength=0.6, num_inference_steps=5, seed=3)
    assert got.std() > 1


def test_no_step_at_all(pipes, photo):
    same(pipes("sd1"), image=photo[0], strength=0.1, num_inference_steps=5, seed=3)


@pytest.mark.parametrize("scheduler", FIVE)
def test_inpaint_by_putting_back(pipes, photo, scheduler):
    image, mask = photo
    same(pipes("sd1"), scheduler=scheduler, image=image, mask_image=mask, num_inference_steps=4, seed=3)


@pytest.mark.parametrize("scheduler", FIVE)
def test_inpaint_with_nine_channels(pipes, photo, scheduler):
    image, mask = photo
    strength = 0.7 if scheduler == "PNDM" else 1
    same(
        pipes("inpaint"), scheduler=scheduler, image=image, mask_image=mask, strength=strength, num_inference_steps=4,
        seed=3,
    )  # fmt: skip


def test_nothing_is_compiled_anew(pipes, latents, compiled):
    pipe, _ = pipes("sd1")
    pipe("a red apple", latents=latents, num_inference_steps=4)
    compiled.clear()
    pipe("another prompt", latents=latents, num_inference_steps=4, guidance_scale=3.5, negative_prompt="dark")
    pipe("a red apple", latents=latents, num_inference_steps=7)
    pipe.scheduler = from_config(pipe.scheduler.config, "EulerAncestralDiscrete")
    pipe("a red apple", latents=latents, num_inference_steps=5)
    pipe.scheduler = from_config(pipe.scheduler.config, "PNDM")
    assert compiled == []


def test_segments(pipes, latents, compiled):
    """Of two steps and the rest: the same picture, latents on the way as ONNX Runtime's, one program for all."""
    pipe, other = pipes("sd1")
    arguments = {"latents": latents, "num_inference_steps": 5}
    stream = pipe.stream("a red apple", every=2, **arguments)
    steps = [next(stream)]
    compiled.clear()
    steps += list(stream)
    assert compiled == []
    expected = list(other.stream("a red apple", **arguments))
    assert [step.index for step in steps] == [1, 3, 4]
    for step in steps:
        beside = expected[step.index]
        assert step.timestep == beside.timestep
        assert np.abs(step.latents - beside.latents).max() < 1e-4
        assert np.abs(step.denoised - beside.denoised).max() < 1e-3
    assert (pictures(stream.result()) == pictures(pipe("a red apple", **arguments))).all()
    stream = pipe.stream("a red apple", every=1, **arguments)
    with pytest.raises(InvalidArgument, match="every is 0"):
        pipe.stream("a", every=0)
    stream.close()


def test_not_a_number(pipes, latents):
    pipe, _ = pipes("sd1")
    params = pipe._model.params["unet"]
    kept = params["conv_in.bias"]
    params["conv_in.bias"] = kept.at[0].set(np.nan)
    try:
        with pytest.raises(NumericalError, match=r"unet gave NaN or infinity: load the model with dtype=jnp\.float32"):
            pipe("a red apple", latents=latents, num_inference_steps=4)
    finally:
        params["conv_in.bias"] = kept


def test_programs_are_kept_on_request(pipes, tmp_path):
    keep_programs(tmp_path)
    try:
        pipes("sd1")[0]._parts.text_encoder(["five", "prompts", "are", "a", "new shape"])
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
        compilation_cache.reset_cache()
    assert any(tmp_path.iterdir())


@pytest.mark.slow
def test_the_default_model():
    arguments = {"seed": 7, "num_inference_steps": 20, "rng": "philox"}
    got, expected = (pictures(load("emoji")("a red apple", **arguments)) for load in (diffrt.flax.load, diffrt.load))
    assert np.abs(got - expected).max() <= 2
