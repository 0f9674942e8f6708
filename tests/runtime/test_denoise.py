"""The loop and guidance, with models simple enough to know the answer."""

import numpy as np
import pytest

from diffrt.denoise import denoise, start
from diffrt.errors import BundleError, InvalidArgument
from diffrt.guidance import guide, is_guided
from diffrt.schedulers import SCHEDULERS, DDIMScheduler, EulerAncestralDiscreteScheduler, PNDMScheduler
from tests.schedulers.cases import case_of
from tests.schedulers.reference import fitting

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
X = np.random.default_rng(0).standard_normal((2, 4, 5, 7)).astype(np.float32)
NAMES = sorted(SCHEDULERS)


def model(x, t, row=0):
    return np.tanh(x) * np.float32(0.3 + t / 2000)


def fresh(seed=1):
    rng = np.random.default_rng(seed)
    return lambda _=None: rng.standard_normal(X.shape).astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_equals_the_stepping_shell(name):
    """The shell is what users' own loops run; it is compared with diffusers' classes elsewhere."""
    scheduler, n = SCHEDULERS[name].from_config(fitting(name, SD)), case_of(name).count(6)
    table = scheduler.table(n)
    *_, last = denoise(table, model, start(table, X), fresh())
    stepper, noise = scheduler.stepper(n), fresh()
    x = X * np.float32(stepper.init_noise_sigma)
    for i, t in enumerate(stepper.timesteps):
        m = model(stepper.scale_model_input(x, t), t)
        x = stepper.step(m, t, x, noise() if stepper.table.noisy[i] else None).prev_sample
    np.testing.assert_allclose(last.latents, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_an_inference_step(name):
    n = case_of(name).count(9)
    table = SCHEDULERS[name].from_config(fitting(name, SD)).table(n)
    steps = list(denoise(table, model, start(table, X), fresh()))
    assert [s.index for s in steps] == list(range(n))
    assert all(s.total == n and s.latents.shape == s.denoised.shape == X.shape for s in steps)
    assert all(s.latents.dtype == s.denoised.dtype == np.float32 for s in steps)
    assert len({id(s.latents) for s in steps}) == n


def test_runge_kutta_evaluates_more_often_than_it_steps():
    calls = []
    steps = list(
        denoise(PNDMScheduler.from_config(SD).table(6), lambda x, t, row: calls.append(t) or model(x, t), X, fresh())
    )
    assert len(steps) == 6
    assert len(calls) > 6


@pytest.mark.parametrize("name", NAMES)
def test_the_estimate_is_the_picture_a_perfect_model_has_in_mind(name):
    if "previews" in case_of(name).exempt:
        pytest.skip(case_of(name).exempt["previews"])
    picture = np.linspace(-1, 1, X.size, dtype=np.float32).reshape(X.shape)
    table = SCHEDULERS[name].from_config(fitting(name, SD)).table(case_of(name).count(8))
    evaluations = iter(np.flatnonzero(table.calls))

    def perfect(x, t, i):
        assert i == next(evaluations)
        assert t == table.t[i]
        return (picture - np.float32(table.px0[i] / table.c_in[i]) * x) / np.float32(table.qx0[i])

    exact = max(1e-4, np.spacing(np.float32(4 * table.init_sigma)))  # x has no more digits
    for step in denoise(table, perfect, start(table, X), fresh()):
        if table.calls[table.step_of == step.index].any():
            np.testing.assert_allclose(step.denoised, picture, atol=exact)
    assert next(evaluations, None) is None


def test_noise_is_drawn_only_where_the_table_asks():
    def never():
        raise AssertionError("a deterministic sampler drew noise")

    assert len(list(denoise(DDIMScheduler.from_config(SD).table(3), model, X, never))) == 3
    table = EulerAncestralDiscreteScheduler.from_config(SD).table(3)
    draws = []
    list(denoise(table, model, X, lambda i: draws.append(i) or X))
    assert len(draws) == table.noisy.sum() > 0


def test_previews():
    colours = (np.eye(4, 3).tolist(), [0.0, 0.0, 0.0])
    step = next(denoise(DDIMScheduler.from_config(SD).table(3), model, X, fresh(), colours))
    picture = step.preview()
    assert picture.shape == (2, 5, 7, 3)
    assert picture.dtype == np.uint8
    expected = np.clip(step.denoised[:, :3] * 127.5 + 127.5, 0, 255).transpose(0, 2, 3, 1)
    assert np.abs(picture - expected).max() <= 0.51
    with pytest.raises(BundleError, match="no preview matrix"):
        next(denoise(DDIMScheduler.from_config(SD).table(3), model, X, fresh())).preview()


def test_guidance_extrapolates():
    embeds, negative = ({"e": np.full((2, 3, 4), value, np.float32)} for value in (2, 5))
    sizes = []

    def conditioned(x, t, told):
        sizes.append(len(x))
        return x * np.float32(t) + told["e"].mean(axis=(1, 2))[:, None, None, None]

    for scale in (1.5, 7.5):
        out = guide(conditioned, embeds, negative, scale)(X, 3.0, 0)
        np.testing.assert_allclose(out, X * 3 + (5 + scale * (2 - 5)), rtol=1e-5)
    np.testing.assert_allclose(guide(conditioned, embeds, None, 7.5)(X, 3.0, 0), X * 3 + 2)
    with pytest.raises(InvalidArgument, match=r"\[2, 3, 4\].*\[2, 1, 4\].*negative_prompt_embeds"):
        guide(conditioned, embeds, {"e": negative["e"][:, :1]}, 2.0)
    assert sizes == [4, 4, 2]  # guided: both halves in one evaluation; otherwise only one half


def test_scales_up_to_one_are_unguided():
    assert [is_guided(s) for s in (-1, 0, 0.5, 1, 1.01, 7.5)] == [False, False, False, False, True, True]
