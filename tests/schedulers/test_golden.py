"""Law 3: every intermediate sample equals that of diffusers 0.42.1's class, for the same config, model and noise.

Where the reference is known to be at fault, docs/schedulers.md says what it does and what diffrt does; tests name the
faults by their numbers there.
"""

import random
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import torch

from diffrt.errors import InvalidArgument
from diffrt.schedulers import SCHEDULERS
from diffrt.schedulers.config import allows
from tests.schedulers.cases import case_of
from tests.schedulers.reference import (
    SD_CONFIG,
    SHAPE,
    Run,
    fitting,
    reference_scheduler,
    run_reference,
    run_table,
    start_noise,
    worst,
)

TOLERANCE = 2e-5
SPACINGS = ("linspace", "leading", "trailing")
PREDICTIONS = ("epsilon", "v_prediction", "sample", "flow_prediction")

# What the sweep tries for each key, unless the class's case says otherwise. For other keys: every choice that the
# annotation allows, or the default.
VALUES: dict[str, tuple[Any, ...]] = {
    "num_train_timesteps": (1000, 1000, 400),
    "beta_start": (0.00085, 0.0001),
    "beta_end": (0.012, 0.02),
    "trained_betas": (None, None, "sine"),
    "steps_offset": (0, 1),
    "clip_sample_range": (1.0, 2.5),
    "thresholding": (False, False, True),
    "dynamic_thresholding_ratio": (0.995, 0.8),
    "sample_max_value": (1.0, 1.7),
    "rescale_betas_zero_snr": (False, False, True),
    "use_karras_sigmas": (False, False, False, True),
    "use_exponential_sigmas": (False, False, False, True),
    "use_lu_lambdas": (False, False, False, True),
    "use_beta_sigmas": (False, False, False, True),
    "use_flow_sigmas": (False,),
    "use_dynamic_shifting": (False,),
    "flow_shift": (1.0, 3.0),
    "interpolation_type": ("linear", "linear", "log_linear"),
    "variance_type": (None, "fixed_small"),
    "sigma_min": (None, 0.05),
    "sigma_max": (None, 11.0),
    "lambda_min_clipped": (-float("inf"), -5.1),
}

# Refused here on purpose where the reference runs: fault 7 and keys it ranks silently.
REFUSED = ("rescale_betas_zero_snr needs", "exclude each other")


def values_of(name: str, key: str, kind: Any, default: Any) -> tuple[Any, ...]:
    if key in case_of(name).values:
        return tuple(case_of(name).values[key])
    if key in VALUES:
        return VALUES[key]
    if kind is bool:
        return (False, True)
    return get_args(kind) if get_origin(kind) is Literal else (default,)


def options_of(name: str, n: int, config: Mapping[str, Any], rng: random.Random) -> Mapping[str, Any]:
    options = rng.choice(list(case_of(name).options))
    options = dict(options(n, config) if callable(options) else options)
    if "eta" in SCHEDULERS[name].options() and "eta" not in options:
        options["eta"] = rng.choice((0.0, 0.4, 1.0))
    return options


def levels(sigmas: np.ndarray) -> np.ndarray:
    """Each of them once: the reference repeats a level that two evaluations share."""
    return sigmas[np.append(True, np.abs(np.diff(sigmas)) > 1e-6 * sigmas[:-1])]


def compare_grids(ours: Run, reference: Run) -> None:
    """Timesteps and sigmas equal: to a few units in the last place of float32, which is what torch's own roots and
    logarithms differ by from one processor to another. Where the time within a step is that of a level, and so of
    float32 logarithms, such a unit is up to 1e-4 of it."""
    ulp = float(np.finfo(np.float32).eps)
    np.testing.assert_allclose(ours.timesteps, reference.timesteps, rtol=2 * ulp, atol=1e-4)
    starts = ours.starts
    np.testing.assert_allclose(ours.timesteps[starts], reference.timesteps[starts], rtol=2 * ulp, atol=1e-6)
    if reference.sigmas is not None:
        ours_once, reference_once = levels(ours.sigmas), levels(reference.sigmas)
        np.testing.assert_allclose(ours_once, reference_once[: len(ours_once)], rtol=4 * ulp)  # fault 9: one more
    assert ours.init_sigma == pytest.approx(reference.init_sigma, rel=2 * ulp)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_stable_diffusion(name: str, prediction: str, spacing: str) -> None:
    """Stable Diffusion's config, unmodified reference, float32, all step counts."""
    types = {f.name: f.type for f in fields(SCHEDULERS[name])}
    if not {"beta_schedule", "prediction_type", "timestep_spacing"} <= set(types):
        pytest.skip("has no such keys: test_every_option compares it")
    config = SD_CONFIG | {"prediction_type": prediction, "timestep_spacing": spacing}
    if not (allows(types["prediction_type"], prediction) and allows(types["timestep_spacing"], spacing)):
        with pytest.raises((ValueError, NotImplementedError)):
            run_reference(name, config, 5)
        return
    if prediction == "flow_prediction" and "use_flow_sigmas" in types:
        config["use_flow_sigmas"] = True
        if name == "DPMSolverMultistepInverseScheduler":
            with pytest.raises(InvalidArgument, match="no flow levels"):
                SCHEDULERS[name].from_config(config)
            return
    dtype = "float64" if prediction in case_of(name).wide else "float32"
    for n in sorted({*case_of(name).steps} - {*case_of(name).inexact}):
        reference = run_reference(name, config, n, dtype=dtype)
        ours = run_table(name, config, n, dtype=dtype, noise=reference.noise)
        compare_grids(ours, reference)
        starts = ours.starts
        np.testing.assert_array_equal(ours.timesteps[starts], reference.timesteps[starts].astype(np.float32))
        assert worst(ours, reference) < TOLERANCE, n


@pytest.mark.parametrize("name", SCHEDULERS)
def test_defaults(name: str) -> None:
    for n in {4, 20} & set(case_of(name).steps) or case_of(name).steps:
        reference = run_reference(name, {}, n)
        ours = run_table(name, {}, n, noise=reference.noise)
        compare_grids(ours, reference)
        assert worst(ours, reference) < TOLERANCE


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("name", [name for name, cls in SCHEDULERS.items() if "eta" in cls.options()])
def test_eta(name: str, eta: float) -> None:
    for n in case_of(name).steps:
        reference = run_reference(name, SD_CONFIG, n, {"eta": eta})
        ours = run_table(name, SD_CONFIG, n, {"eta": eta}, noise=reference.noise)
        assert worst(ours, reference) < TOLERANCE


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("count", [24, pytest.param(400, marks=pytest.mark.slow)])
def test_every_option(name: str, count: int) -> None:
    """Random combinations of all keys; what one side refuses the other refuses too, or it is a listed fault."""
    rng, case, compared = random.Random(f"{name} {count}"), case_of(name), 0
    for _ in range(count):
        config = {f.name: rng.choice(values_of(name, f.name, f.type, f.default)) for f in fields(SCHEDULERS[name])}
        if config.get("trained_betas"):
            ramp = np.linspace(0, 1.5, config["num_train_timesteps"])
            config["trained_betas"] = (1e-4 + 0.015 * np.sin(ramp) ** 2).tolist()
        counts = [n for n in (1, 2, 3, 4, 5, 7, 10, 14, 15, 20, 33) if n in case.steps or len(case.steps) > 3]
        n = rng.choice([n for n in counts if n not in case.inexact])
        options = options_of(name, n, config, rng)
        told = None if {"timesteps", "sigmas"} & set(options) else n
        reference: Run | None
        try:
            with np.errstate(invalid="ignore"):
                reference = run_reference(name, config, told, options, "float64")
            if not all(np.isfinite(sample).all() for sample in reference.samples):
                reference = None
        except (ValueError, NotImplementedError, IndexError, UnboundLocalError, ZeroDivisionError, RuntimeError):
            reference = None
        ours, refusal = None, ""
        try:
            ours = run_table(name, config, told, options, "float64", reference and reference.noise)
        except InvalidArgument as error:
            refusal = str(error)
        if ours is None:
            assert reference is None or any(why in refusal for why in (*REFUSED, *case.refused)), (refusal, config, n)
            continue
        if reference is None:
            assert case.broken(config, n, options), (config, n, options)
            continue
        if case.lossy(config, n):
            continue
        compare_grids(ours, reference)
        assert worst(ours, reference) < TOLERANCE, (config, n, options)
        compared += 1
    assert compared > count // 5


@pytest.mark.parametrize("name", SCHEDULERS)
def test_add_noise(name: str) -> None:
    original = np.random.default_rng(1).standard_normal(SHAPE, np.float32)
    for config in ({}, *(fitting(name, SD_CONFIG | {"timestep_spacing": spacing}) for spacing in SPACINGS)):
        reference, ours = reference_scheduler(name, config), SCHEDULERS[name].from_config(config)
        if "add_noise" in case_of(name).exempt:
            pytest.skip(case_of(name).exempt["add_noise"])
        n = 10 if 10 in case_of(name).steps else case_of(name).steps[-1]
        reference.set_timesteps(n)
        starts = np.append(True, np.diff(ours.table(n).step_of) > 0)
        every = reference.timesteps[: len(starts)][starts]
        for t in (every[[1 % len(every), 7 % len(every)]], every[[0, 0]]):
            if hasattr(reference, "scale_noise"):  # that of a flow: one timestep at a time, which Heun's remembers
                reference.set_timesteps(n)
                t = t[:1]
                expected = reference.scale_noise(torch.from_numpy(original), t, torch.from_numpy(start_noise()))
            else:
                expected = reference.add_noise(torch.from_numpy(original), torch.from_numpy(start_noise()), t)
            got = ours.add_noise(original, start_noise(), t.numpy())
            assert got.dtype == np.float32
            # A float32 time says no more of a level than this: near the end of an arc, 3e-5.
            (_, sigma), (_, other) = (ours.marginal(s.double().numpy()) for s in (t, t - t.abs() * 1e-7))
            rtol = max(1e-5, float(np.abs(other - sigma).max() / sigma.max()))
            np.testing.assert_allclose(got, expected, rtol=rtol, atol=1e-6 * float(expected.abs().max()))
        np.testing.assert_array_equal(ours.add_noise(original, start_noise(), float(t[0])), got)


def test_add_noise_at_respaced_levels() -> None:
    """At the fractional timesteps of a Karras grid the noise is the grid's."""
    for name in ("LMSDiscreteScheduler", "EulerDiscreteScheduler"):
        ours = SCHEDULERS[name].from_config(SD_CONFIG | {"use_karras_sigmas": True})
        stepper = ours.stepper(10)
        zero, one = np.zeros((10, 1), np.float32), np.ones((10, 1), np.float32)
        got = ours.add_noise(zero, one, stepper.timesteps)[:, 0]
        np.testing.assert_allclose(got, stepper.sigmas[:-1], rtol=1e-5)


@pytest.mark.parametrize("n", [61, 103, 994])
@pytest.mark.parametrize("name", ["DDIMScheduler", "PNDMScheduler", "LMSDiscreteScheduler", "EulerDiscreteScheduler"])
def test_trailing_has_as_many_steps_as_asked(name: str, n: int) -> None:
    """Fault 1."""
    reference = reference_scheduler(name, SD_CONFIG | {"timestep_spacing": "trailing"})
    reference.set_timesteps(n)
    assert reference.timesteps[-1] == -1
    table = SCHEDULERS[name].from_config(SD_CONFIG | {"timestep_spacing": "trailing"}).table(n)
    assert table.steps == n
    assert table.t[-1] == reference.timesteps[-2]
