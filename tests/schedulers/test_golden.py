"""Law 3: every intermediate sample equals that of diffusers 0.42.1's class, for the same config, model and noise.

Known faults of the reference, met while comparing (in brackets: what diffrt does):

1. timestep_spacing "trailing" makes n + 1 timesteps for some n (61, 103, 121, ... of 1000), the last of them -1,
   which indexes the noisiest training step [n timesteps].
2. DDIM and PNDM count back num_train_timesteps // n from each timestep: with "linspace", and with "trailing" where
   n does not divide, a step arrives beside the timestep the next one starts from [the same].
3. A run whose first timestep is repeated (DPM-Solver with a cosine schedule and Karras sigmas truncates 998.9 and
   998.8 to 998) starts at the second of them unless set_begin_index(0) is called, and later reads past the end:
   diffusers issue 12771 [row k is step k; compared here with set_begin_index(0)].
4. DPM-Solver with re-spaced sigmas and final_sigmas_type "sigma_min" takes its last step from sigma_min to
   sigma_min, give or take a rounding: 0/0 in orders 2 (heun) and 3, the root of -1e-7 in its SDEs [stands still].
5. DPM-Solver's D2 is half of what a third-order method needs: solver_order 3 converges with order 2 [the same].
6. sde-dpmsolver++ of order 3 has the sign of a 1/2 reversed: on Gaussian data the spread is 2.6 times too large
   after 499 steps, where order 2 is within about 1 % [the same]; sde-dpmsolver has no order 3 and fails after two
   steps [refused when constructed].
7. Zero terminal SNR with prediction_type "epsilon" divides by 0 in DDIM and by 2^-12 elsewhere [refused].
8. PNDM's Runge-Kutta start fails below 4 steps, with a broadcasting error [refused with the reason].
9. EulerDiscrete's "log_linear" makes n + 2 sigmas for n timesteps and never reaches zero noise [the same]; with
   continuous timesteps it makes n + 1 of those, and does [the same].
10. A timestep beyond the last ("leading", steps_offset 1, n = num_train_timesteps) counts as the last in
    EulerDiscrete, divides by zero in LMS and is out of range in DDIM and PNDM [refused in the last three].
11. DDIM at eta = 1 takes the root of a difference that is 0 up to rounding, and is NaN when that falls below
    [0]. In float32 the same difference costs it up to 5e-4 of a sample, which is why the sweep runs in float64.
12. A switch of classes drops the keys that the class in between does not have: DDIM -> LMS -> DDIM loses
    clip_sample = False [keeps it].
D1. LCM and TCD with custom timesteps and a strength below 1 add noise after the last step: they count the steps that
   strength leaves out [refused: the timesteps of that part alone are the same run, without the noise].
D2. TCD has the keys clip_sample and thresholding and never clips [the same].
D3. The flow classes shift the ends of their levels twice: with shift 3 the last of n levels is 9 / 1000 and not
   3 / 1000 (diffusers issue 13243) [the same: pictures are made with it].
D4. FlowMatchEuler and FlowMatchLCM shift the levels of custom timesteps, but tell the model the unshifted times
   (diffusers issue 14461) [the same].
D5. With invert_sigmas, FlowMatchEuler's stochastic_sampling and all of FlowMatchLCM take signal for noise [refused],
   and so does scale_noise [1 - sigma of noise].
D6. The flow classes look a timestep up among floats that must be equal: scale_noise fails at 254, which float32 times
   1000 makes 254.00002 (diffusers issues 10584 and 11749), and step in another dtype [row k is step k, and noise is
   that of the time itself].
D7. FlowMatchHeun's churn adds noise after the model has seen x, and for the second evaluation to nothing [no such
   option]; its scale_noise remembers the first timestep it was called with [does not].
D8. LTXEulerAncestralRF takes custom timesteps for sigmas [no such option], and with s_noise = 0 it lands on a lower
   level than it says [refused].
D9. IPNDM's first step, from noise alone, divides 0 by 1e-8: the picture counts as 0 there, whatever the model says
   [the same, without calling the model]. With trained_betas it ignores num_inference_steps [refused].
D10. SCM's two defaults exclude each other for any number of steps but 2 [intermediate_timesteps is for 2].
D11. ScoreSdeVp takes n steps of 1 / n over n times that are 1 / (n - 1) apart [the same]. Its 1 - exp(...) loses
   three digits in float32 at the last time: 8e-5 of a sample in two steps, 7e-14 in float64 [loses none].
A1. DDPM's "fixed_large_log" takes the root of log beta, which is NaN [the variance it names, that of fixed_large].
A2. CogVideoXDPM draws noise twice in a second-order step and uses the second draw [one draw: the same seed gives
    another picture].
A3. UnCLIP's steps of one training step, and so its last one always, weigh x0 by beta / (1 - abar), two float32 values
    that agree to three digits: pictures are 0.9995 times as bright as they should be [the same]. One step alone divides
    by zero [refused].
A4. RePaint takes trained_betas as a NumPy array only: the list of a config file fails [a list, too].
A5. RePaint's undo_step takes the betas of one stride after the level x is at: where a stride is more than one training
    step, x comes back noisier than the model is told [the same].
A6. The CogVideoX classes read neither clip_sample nor their step's eta [the same; eta is refused].
A7. DDIMInverse with prediction_type "sample" and set_alpha_to_one divides 0 by 0 in its first step [refused].
A8. A run of DDPM that ends above timestep 0 ("trailing", steps_offset, custom timesteps) adds the noise of a large or
    learned variance to its result [the same].
C1. DPM-Solver, singlestep DPM-Solver, DEIS and SA-Solver run prediction types that do not fit their noise levels:
    flow_prediction without use_flow_sigmas, and v_prediction with it, give nonsense [refused].
C2. DPM-Solver, singlestep DPM-Solver, UniPC and SA-Solver refuse flow_prediction where they integrate the noise
    prediction [runs; UniPC's is refused, see C5].
C3. thresholding in the noise prediction fails in singlestep DPM-Solver and SA-Solver: it indexes with no timestep
    [thresholds x0, as multistep DPM-Solver does], and does nothing in UniPC [the same].
C4. UniPC's last step to zero noise multiplies infinity by 0: NaN with solver_type "bh1", and in any order above 1
    with lower_order_final False [order 1, whose limit is x0].
C5. UniPC shifts sigmas that cannot be a flow's (use_flow_sigmas with exponential or beta sigmas, predict_x0 False at
    alpha = 1e-6), and ranks what excludes each other [refused]. Custom sigmas with Karras sigmas are read upside down
    [refused]; as a list they fail [a list].
C6. A run's mu stays in the config of DPM-Solver and DEIS as flow_shift, and an odd number of steps turns singlestep
    DPM-Solver's lower_order_final on, for all later runs [a run changes nothing].
C7. DPM-Solver's inverse drops repeated timesteps (Karras sigmas) but not their levels: it is told wrong times and stops
    early [as many timesteps as levels]; its flow levels fall like the forward ones [refused]; its SDEs are NaN
    [refused].
C8. DPM-Solver's inverse ends with a step that stands still with "trailing" spacing and re-spaced sigmas, 0/0 in orders
    2 (heun) and 3 [stands still].
C9. DPM-Solver with flow sigmas and final_sigmas_type "sigma_min" ends at the training's sigma_min, which may be a step
    up: NaN in its SDEs [refused there, else the same].
C10. Singlestep DPM-Solver's SDE of order 3 (heun) has the sign of fault 6 [the same].
B1. KDPM2Ancestral computes the level below a step as the root of a float32 difference, which loses the digits of long
    steps from high levels: its samples are off by 3e-6 in three steps of Stable Diffusion, 5e-4 in two, and by 5 % in
    twenty with a cosine schedule [exact; the times that it tells the network are the reference's].
B2. EDMEuler takes custom sigmas for places between 0 and 1 on its own curve, and only as a tensor, though it documents
    them as the sigmas to use [the levels to start steps from].
B3. Heun, KDPM2 and others add noise at a timestep in the middle of a step as if it were the step's end [at its level].
B4. EDMDPMSolverMultistep and CosineDPMSolverMultistep list prediction_type "sample" and fail at the first step; at
    order 3, the SDE of the first and all of the second fail after two steps [refused when constructed].
B5. CosineDPMSolverMultistep with final_sigmas_type "sigma_min" reads its path over no distance at the end: 0/0 [stands
    still].
B6. Euler with churn asks the network before it adds the noise, and reads a v_prediction at the level before [the same].
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
@pytest.mark.parametrize("count", [40, pytest.param(400, marks=pytest.mark.slow)])
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
