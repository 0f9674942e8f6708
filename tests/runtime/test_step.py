"""The loop over a step graph: the samples of the loop over the denoiser, and nobody's arrays written to."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

import diffrt
from diffrt.cli import run
from diffrt.engines import onnx_runtime
from diffrt.errors import BundleError, InvalidArgument, NumericalError, ProviderError
from diffrt.guidance import guide, mixtures
from diffrt.prepared import prepare
from diffrt.providers import PROVIDERS
from diffrt.schedulers import SCHEDULERS
from diffrt.session import available
from diffrt.tasks.shared import misfit
from exporters import step

PROMPTS = ["a red apple", "the apple"]
CONFIG = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}


@pytest.fixture(scope="module")
def folder(sd1_bundle, tmp_path_factory):
    return step.export(sd1_bundle, tmp_path_factory.mktemp("step") / "sd1")


@pytest.fixture(scope="module")
def host(folder):
    return diffrt.load(folder)


@pytest.fixture(scope="module")
def held(folder):
    return diffrt.load(folder, loop="step")


def both(host, held, name="DDIMScheduler", **arguments):
    """The steps of both loops, and what the calls ended with."""
    found = []
    for pipe in (host, held):
        pipe.scheduler = SCHEDULERS[name].from_config(CONFIG)
        stream = pipe.stream(PROMPTS, **{"seed": 7, "num_inference_steps": 5, "output_type": "latent"} | arguments)
        found.append((list(stream), stream.result()))
    return found


def apart(got, expected):
    assert got.shape == expected.shape and got.dtype == np.float32 and expected.std() > 0.1
    return np.linalg.norm(got - expected) / np.linalg.norm(expected)


def assert_same(found, tolerance=1e-4):
    (by_host, out), (by_step, got) = found
    assert apart(got.latents, out.latents) <= tolerance
    assert [each.timestep for each in by_step] == [each.timestep for each in by_host]
    for a, b in zip(by_step, by_host, strict=True):
        assert apart(a.latents, b.latents) <= tolerance
        assert apart(a.denoised, b.denoised) <= tolerance


# --- the same samples -------------------------------------------------------------------------------------------------


def drawn():
    """Every class that draws with the config of a Stable Diffusion checkpoint."""
    for name, cls in SCHEDULERS.items():
        try:
            table = cls.from_config(CONFIG).table(5)
        except (InvalidArgument, NotImplementedError):
            continue
        if not misfit(table) and not hasattr(cls, "correct"):
            yield name


def test_corrections_are_refused(held):
    held.scheduler = SCHEDULERS["ScoreSdeVeScheduler"].from_config(CONFIG)
    with pytest.raises(InvalidArgument, match="the step graph does no correction: load with loop='auto' or 'host'"):
        held("a", num_inference_steps=2)


@pytest.mark.parametrize("name", drawn())
def test_every_scheduler(host, held, name):
    assert_same(both(host, held, name, guidance_scale=4.0))


@pytest.mark.parametrize(
    "arguments",
    [
        {"guidance_scale": 1.0},
        {"guidance_scale": 5.0, "eta": 0.8, "num_images_per_prompt": 2},
        {"guidance_scale": 7.0, "guidance_interval": (0.2, 0.7)},  # unguided, guided, unguided
        {"guidance_scale": 0.6, "cfg_plus_plus": True},
        {"guidance_scale": 4.0, "height": 72, "width": 88},
        {"guidance_scale": 4.0, "image": np.linspace(0, 1, 64 * 64 * 3, dtype=np.float32).reshape(64, 64, 3)},
    ],
    ids=["unguided", "noise", "interval", "cfg++", "size", "image"],
)
def test_every_guidance(host, held, arguments):
    assert_same(both(host, held, **arguments))


def test_composed_prompts_and_long_ones(host, held):
    out = [
        pipe("a red AND an apple :0.4 AND blue:-0.2", weighting="scale", chunks=2, seed=3, output_type="latent").latents
        for pipe in (host, held)
    ]
    assert apart(out[1], out[0]) <= 1e-4


def test_mixtures_are_guidance():
    """m of random evaluations, by diffrt.guidance.guide and by the weights, for K conditions and their shares."""
    rng = np.random.default_rng(0)
    said = {"c": rng.standard_normal((6, 3)).astype(np.float32)}  # three conditions of two pictures
    negative = {"c": rng.standard_normal((2, 3)).astype(np.float32)}
    scale, by_row = rng.standard_normal((3, 2)).astype(np.float32), [1.0, 0.3]

    def model(x, t, conditions):
        return x * conditions["c"].sum(axis=1)[:, None, None, None]

    x = rng.standard_normal((2, 4, 3, 3)).astype(np.float32)
    mixture = mixtures(said, negative, scale, 2, by_row)
    for row in range(2):
        mixed = mixture(row)
        evaluations = model(x[mixed.pictures], 0.0, mixed.conditions)
        m = np.einsum("bn,n...->b...", mixed.weights, evaluations)
        np.testing.assert_allclose(m, guide(model, said, negative, scale, by_row)(x, 0.0, row), rtol=1e-5, atol=1e-5)


# --- whose arrays -----------------------------------------------------------------------------------------------------


def test_nothing_that_a_caller_holds_is_written_to(held):
    """Unguided DDIM: x goes into the model as it is and comes out of the row, so that any array that is bound as it is
    would be drawn over. Latents that were passed in, and those of every step, stay as they were."""
    held.scheduler = SCHEDULERS["DDIMScheduler"].from_config(held.scheduler.config)
    latents = np.random.default_rng(0).standard_normal((1, 4, 8, 8), dtype=np.float32)
    given, seen = latents.copy(), []
    for _ in range(2):  # the second call finds the places of the first
        for each in held.stream("a", latents=latents, guidance_scale=1.0, num_inference_steps=4, output_type="latent"):
            seen.append((each, each.latents.copy(), each.denoised.copy()))
    np.testing.assert_array_equal(latents, given)
    for each, then, estimate in seen:
        np.testing.assert_array_equal(each.latents, then)
        np.testing.assert_array_equal(each.denoised, estimate)
    for (_, first, _), (_, second, _) in zip(seen[:4], seen[4:], strict=True):
        np.testing.assert_array_equal(first, second)  # nothing of a run is left for the next
    assert not any(np.array_equal(a, b) for (_, a, _), (_, b, _) in itertools.pairwise(seen))


def test_runs_side_by_side_do_not_mix(held):
    """Two streams of the same shapes, step by step in turns; one that is given up gives its places back."""
    alone = [held(p, seed=3, num_inference_steps=4, output_type="latent").latents for p in PROMPTS]
    streams = [held.stream(p, seed=3, num_inference_steps=4, output_type="latent") for p in PROMPTS]
    given_up = held.stream("a", seed=9, num_inference_steps=4)
    next(given_up)
    for _ in range(4):
        for stream in streams:
            next(stream)
    given_up.close()
    for stream, expected in zip(streams, alone, strict=True):
        np.testing.assert_array_equal(stream.result().latents, expected)
    np.testing.assert_array_equal(held(PROMPTS[0], seed=3, num_inference_steps=4).latents, alone[0])


def test_places_stay_and_no_evaluation_writes_what_it_reads(folder, held, monkeypatch):
    """What a captured CUDA graph rests on: under one number the same addresses, in every run and call."""
    bound, plain = {}, onnx_runtime.Held.run
    places = set()

    def run(self):
        _, options = self._turns[self._turn]
        number = options.get_run_config_entry("gpu_graph_id")
        before, after = self._states[self._turn].data_ptr(), self._states[1 - self._turn].data_ptr()
        others = tuple(place.data_ptr() for place in self._places.values())
        assert before != after and len({before, after, *others}) == 2 + len(others)
        assert bound.setdefault(number, (before, after, others)) == (before, after, others)
        places.add(before)
        plain(self)
        assert self._states[self._turn].data_ptr() == after

    monkeypatch.setattr(onnx_runtime.Held, "run", run)
    for guidance in (1.0, 3.0, 1.0, 3.0):
        held("a", seed=1, guidance_scale=guidance, num_inference_steps=4, output_type="latent")
    assert len(bound) == len(places) == 4  # two turns, guided and not


# --- how it is asked for ----------------------------------------------------------------------------------------------


def test_it_is_the_providers_choice_or_the_callers(folder, sd1_bundle, host, held):
    assert host._parts.step is None and held._parts.step is not None  # the CPU gains nothing
    assert PROVIDERS["cuda"].step and not PROVIDERS["cpu"].step
    with pytest.raises(BundleError, match=r"has no step graph: diffrt export .* --form step"):
        diffrt.load(sd1_bundle, loop="step")
    with pytest.raises(ProviderError, match=r"'openvino-fp32' keeps no state.*loop='host'"):
        diffrt.load(folder, loop="step", provider="openvino-fp32")
    with pytest.raises(InvalidArgument, match="unknown loop 'steps': did you mean 'step'"):
        diffrt.load(folder, loop="steps")


def test_a_provider_that_prefers_it_leaves_the_rest_to_the_denoiser(folder, host, monkeypatch):
    monkeypatch.setitem(PROVIDERS, "cpu", replace(PROVIDERS["cpu"], step=True))
    pipe = diffrt.load(folder)
    pipe.scheduler = host.scheduler
    assert pipe._parts.step is not None
    for arguments in ({}, {"guidance_rescale": 0.5}):
        call = {"seed": 7, "num_inference_steps": 3, "guidance_scale": 6.0, "output_type": "latent"} | arguments
        assert apart(pipe("a", **call).latents, host("a", **call).latents) <= 1e-4


def test_what_it_does_not_do(folder, held):
    picture = np.zeros((64, 64, 3), np.float32)
    with pytest.raises(InvalidArgument, match="the step graph does no guidance_rescale: load with"):
        held("a", guidance_rescale=0.5, guidance_scale=5.0)
    with pytest.raises(InvalidArgument, match="does no inpainting"):
        held("a", image=picture, mask_image=picture[..., 0])
    pipe = diffrt.load(folder, loop="step")
    config = {**pipe.scheduler.config, "thresholding": True}
    pipe.scheduler = SCHEDULERS["DDIMScheduler"].from_config(config)
    with pytest.raises(InvalidArgument, match="does no dynamic thresholding"):
        pipe("a")


def test_nan_names_the_graph(held):
    told = {"encoder_hidden_states": np.full((1, 77, 32), np.nan, np.float32)}
    with held._parts.step.hold(np.ones((2, 1, 4, 8, 8), np.float32), mixtures(told, None, 1.0, 1)(0)) as places:
        places.put(W=np.ones((2, 5), np.float32))
        places.run()
        with pytest.raises(NumericalError, match=r"step \(fp32\) gave NaN or infinity in slots_after"):
            places.state()


def test_low_memory_and_prepared(folder, held, tmp_path, monkeypatch):
    call = {"seed": 7, "num_inference_steps": 2, "output_type": "latent"}
    expected = held("a", **call).latents
    low = diffrt.load(folder, loop="step", memory="low")
    low.scheduler = held.scheduler
    np.testing.assert_array_equal(low("a", **call).latents, expected)
    assert low._parts.step._graph._open is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kept = [each.file for each in prepare(low.bundle, PROVIDERS["cpu"])]
    assert "unet/model.ort.onnx" in kept and not any("step" in file for file in kept)


def test_cuda_is_known_and_says_what_to_install(capsys):
    assert available()["cuda"] is False
    assert run(["providers"]) == 0
    assert "not installed: pip install 'diffrt[cuda]'" in capsys.readouterr().out
    with pytest.raises(ProviderError, match=r"'cuda' is not installed.*pip uninstall onnxruntime.*'diffrt\[cuda\]'"):
        diffrt.load("emoji", provider="cuda")


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_pictures_of_the_model_that_comes_along(tmp_path_factory, guidance):
    made = step.export("emoji", tmp_path_factory.mktemp("emoji") / "step")
    pictures = [
        pipe(["a red apple", "a blue heart"], seed=7, guidance_scale=guidance, num_inference_steps=4, output_type="np")
        for pipe in (diffrt.load("emoji"), diffrt.load(made, loop="step"))
    ]
    assert pictures[0].images.std() > 0.1
    assert np.abs(pictures[0].images - pictures[1].images).max() <= 1 / 255
