"""DDPM's family: learned variances, clipped noise, inversion, and RePaint's walk around a known picture."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler as ReferenceDDPM
from diffusers import RePaintScheduler as ReferenceRePaint

from diffrt.denoise import denoise, noised
from diffrt.errors import InvalidArgument
from diffrt.schedulers import SCHEDULERS, apply_row, denoised, from_config
from tests.schedulers.reference import SD_CONFIG, SHAPE, start_noise, toy_model

LEARNED = pytest.mark.parametrize("kind", ["learned", "learned_range"])


@LEARNED
def test_a_learned_variance_scales_the_noise(kind: str) -> None:
    """At every pixel, and by nothing but its own: what is written down in arXiv:2102.09672, eq. 15."""
    table = from_config({"variance_type": kind, "clip_sample": False}, "ddpm").table(10)
    rng = np.random.default_rng(0)
    x, m, z = rng.standard_normal((3, *SHAPE))
    v = rng.uniform(0, 1, SHAPE)
    for i in np.flatnonzero(table.noisy):
        kept, beta = (table.alpha[i + 1] / table.alpha[i]) ** 2, 1 - (table.alpha[i] / table.alpha[i + 1]) ** 2
        assert kept > 1
        var = beta * (table.sigma[i + 1] / table.sigma[i]) ** 2
        std = np.sqrt(v) if kind == "learned" else np.sqrt(beta ** ((v + 1) / 2) * var ** ((1 - v) / 2))
        both = np.concatenate([m, v], axis=1)
        mean = apply_row(table, i, (x,), both, 0 * z)[0]
        np.testing.assert_allclose(apply_row(table, i, (x,), both, z)[0] - mean, std * z, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(denoised(table, i, (x,), both), table.px0[i] * x + table.qx0[i] * m)
        alone = apply_row(table, i, (x[1:],), both[1:], z[1:])[0]
        assert np.array_equal(alone, apply_row(table, i, (x,), both, z)[0][1:])


@LEARNED
def test_outputs_of_the_wrong_shape_are_refused(kind: str) -> None:
    x = np.zeros(SHAPE, np.float32)
    both = np.concatenate([x, x], axis=1)
    learned, fixed = (from_config({"variance_type": k}, "ddpm").table(3) for k in (kind, "fixed_small"))
    with pytest.raises(InvalidArgument, match=r"\[2, 3, 4, 5\], needed: \[2, 6, 4, 5\] .*variance_type is learned"):
        apply_row(learned, 0, (x,), x, x)
    with pytest.raises(InvalidArgument, match=r"\[2, 6, 4, 5\], needed: \[2, 3, 4, 5\]$"):
        apply_row(fixed, 0, (x,), both, x)
    with pytest.raises(InvalidArgument, match="needed"):
        denoised(learned, 0, (x,), x)


@LEARNED
def test_a_learned_variance_in_the_loop_and_the_shell(kind: str) -> None:
    scheduler = from_config({"variance_type": kind}, "ddpm")
    table, stepper = scheduler.table(5), scheduler.stepper(5)
    z = np.random.default_rng(1).standard_normal((5, *SHAPE), np.float32)
    *_, last = denoise(table, lambda x, t, _: toy_model(x, t, 2), start_noise(), lambda i: z[i])
    x = start_noise()
    for i, t in enumerate(stepper.timesteps):
        x = stepper.step(toy_model(x, float(t), 2), t, x, z[i]).prev_sample
    assert np.array_equal(last.latents, x)


def test_fixed_large_log_is_fixed_large() -> None:
    """Fault A1."""
    large, log = (from_config({"variance_type": k}, "ddpm").table(10) for k in ("fixed_large", "fixed_large_log"))
    assert np.array_equal(large.W, log.W)
    reference = ReferenceDDPM(variance_type="fixed_large_log")
    reference.set_timesteps(10)
    x = torch.ones(SHAPE)
    assert torch.isnan(reference.step(x, reference.timesteps[0], x).prev_sample).all()


def test_clipped_noise_is_the_networks_own_where_nothing_is_clipped() -> None:
    scheduler = from_config(SD_CONFIG, "ddim")
    x, m = np.random.default_rng(0).standard_normal((2, *SHAPE))
    plain, derived = (scheduler.table(10, use_clipped_model_output=used) for used in (False, True))
    for i in range(10):
        ours, theirs = (apply_row(table, i, (x,), m)[0] for table in (derived, plain))
        np.testing.assert_allclose(ours, theirs, atol=1e-10)


def test_thresholding_goes_before_clipping() -> None:
    table = from_config({"thresholding": True, "clip_sample": True}, "ddpm").table(3)
    assert table.clip is None
    assert table.threshold is not None


def test_inversion_is_undone_by_ddim() -> None:
    """Exactly, where the noise that the model sees does not change along the way."""
    config = SD_CONFIG | {"steps_offset": 0}
    there, back = (from_config(config, name).table(20) for name in ("ddim-inverse", "ddim"))
    x, eps = np.random.default_rng(0).standard_normal((2, *SHAPE))
    start = x
    for table in (there, back):
        for i in range(table.evals):
            x = apply_row(table, i, (x,), eps)[0]
    np.testing.assert_allclose(x, start, atol=1e-12)


@pytest.mark.parametrize("name", ["CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"])
def test_snr_shift(name: str) -> None:
    """The signal-to-noise ratio of every training step is divided by the scale."""
    plain, shifted = (SCHEDULERS[name].from_config({"snr_shift_scale": k}).marginal(np.arange(1000)) for k in (1, 3))
    np.testing.assert_allclose((plain[0] / plain[1]) ** 2, 3 * (shifted[0] / shifted[1]) ** 2, rtol=1e-9)


# --- RePaint ---------------------------------------------------------------------------------------------

UNSHAPED = {"beta_schedule": "scaled_linear", "clip_sample": False}


def test_a_step_up_returns_to_the_level_it_came_from() -> None:
    """With one training step a step; with more it lands above it (fault A5)."""
    for steps, same in ((1000, True), (50, False)):
        grid = from_config(UNSHAPED, "repaint").grid(steps, jump_length=7, jump_n_sample=2)
        up = np.array([to.t > at.t for at, to in grid])
        arrivals = np.flatnonzero(up[:-1] & ~up[1:])
        assert len(arrivals) == len(range(0, steps - 7, 7))
        assert up.sum() == 7 * len(arrivals)
        assert len(grid) == steps + 2 * up.sum()
        above = np.array([grid.to[k].sigma ** 2 - grid.at[k + 1].sigma ** 2 for k in arrivals])
        assert np.abs(above).max() < 1e-6 if same else above.min() > 1e-4


def pipeline(reference: Any, mask: np.ndarray, original: np.ndarray) -> np.ndarray:
    """The loop of diffusers' RePaintPipeline."""
    generator = torch.Generator().manual_seed(5)
    x, last = torch.randn(SHAPE, generator=generator), reference.timesteps[0] + 1
    for t in reference.timesteps:
        if t < last:
            m, known = torch.from_numpy(toy_model(x.numpy(), float(t))), torch.from_numpy(original)
            x = reference.step(m, t, x, known, torch.from_numpy(mask), generator).prev_sample
        else:
            x = reference.undo_step(x, last, generator)
        last = t
    return x.numpy()


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_repaint_around_a_known_picture(eta: float) -> None:
    """Our loop, with a `settle` that puts the known part back, noised by the row's own draw as in the reference."""
    original = np.random.default_rng(2).uniform(-1, 1, SHAPE).astype(np.float32)
    mask = np.zeros(SHAPE, np.float32)
    mask[..., :2] = 1  # 1: known
    reference = ReferenceRePaint(eta=eta)
    reference.set_timesteps(12, jump_length=3, jump_n_sample=3)
    expected = pipeline(reference, mask, original)

    table = from_config({"eta": eta}, "repaint").table(12, jump_length=3, jump_n_sample=3)
    generator, drawn = torch.Generator().manual_seed(5), {}

    def noise(i: int) -> np.ndarray:
        drawn[i] = torch.randn(SHAPE, generator=generator).numpy()
        return drawn[i]

    def settle(i: int, x: np.ndarray) -> np.ndarray:
        if not table.calls[i]:
            return x
        z = drawn[i] if i in drawn else noise(i)
        known = original if i + 1 == table.evals else noised(table, i + 1, original, z)
        return mask * known + (1 - mask) * x

    *_, last = denoise(table, lambda x, t, _: toy_model(x, t), noise(-1), noise, settle=settle)
    assert last.total == len(reference.timesteps) > 12
    np.testing.assert_allclose(last.latents, expected, atol=2e-5 * np.abs(expected).max())
    assert np.array_equal(last.latents[..., :2], original[..., :2])


def test_no_jump_is_ddim() -> None:
    config = UNSHAPED | {"timestep_spacing": "leading"}
    walk, plain = from_config(config, "repaint").table(20, jump_n_sample=1), from_config(config, "ddim").table(20)
    assert np.array_equal(walk.W, plain.W)


def test_trained_betas_may_be_a_list() -> None:
    """Fault A4."""
    betas = np.linspace(1e-4, 0.02, 1000).astype(np.float32)
    given, default = from_config({"trained_betas": betas.tolist()}, "repaint"), from_config({}, "repaint")
    np.testing.assert_allclose(given.table(20).W, default.table(20).W, atol=1e-5)
