"""Configs and names: what loads, what is refused, and what a switch of classes keeps."""

import ast
import copy
import importlib
import inspect
import json
import pickle
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers

import diffrt.schedulers
from diffrt.errors import InvalidArgument
from diffrt.schedulers import LEFT_OUT, SCHEDULERS, DDIMScheduler, LMSDiscreteScheduler, from_config, scheduler_class
from diffrt.schedulers.base import DiscreteTime, Scheduler
from tests.schedulers.cases import case_of
from tests.schedulers.reference import INTERCHANGEABLE, SD_CONFIG, fitting, reference_class, reference_scheduler

each = pytest.mark.parametrize("name", SCHEDULERS)


def frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@each
def test_fields_are_diffusers_keys_with_its_defaults(name: str) -> None:
    parameters = inspect.signature(reference_class(name).__init__).parameters
    theirs = {k: frozen(p.default) for k, p in parameters.items() if k not in ("self", "kwargs")}
    assert {f.name: f.default for f in fields(SCHEDULERS[name])} == theirs


def test_every_interchangeable_schedulers_config_loads() -> None:
    """A config saved by any of diffusers' interchangeable schedulers loads into each of ours for such models."""
    for other in KarrasDiffusionSchedulers:
        if other.name == "EDMEulerScheduler":  # has no betas
            continue
        saved = dict(reference_scheduler(other.name, {}).config)
        saved.pop("_use_default_values", None)  # as in a file
        for name in (name for name, cls in SCHEDULERS.items() if issubclass(cls, DiscreteTime)):
            ours = from_config(fitting(name, saved), name)
            assert ours.config["beta_end"] == saved["beta_end"]


@each
def test_config_round_trip(name: str) -> None:
    scheduler = from_config(fitting(name, SD_CONFIG), name)
    config = scheduler.config
    assert config["_class_name"] == name
    assert config["beta_end"] == 0.012
    assert from_config(config) == scheduler
    assert from_config(json.loads(json.dumps(dict(config)))) == scheduler
    with pytest.raises(TypeError):
        config["beta_end"] = 1
    with pytest.raises(FrozenInstanceError):
        scheduler.beta_end = 1  # type: ignore[attr-defined]
    assert hash(copy.deepcopy(scheduler)) == hash(scheduler)
    assert pickle.loads(pickle.dumps(scheduler)).config == config


def test_ignored_keys_are_reported_and_carried() -> None:
    """Stable Diffusion's PNDM config carries clip_sample = False for DDIM: a switch of classes must not lose it."""
    pndm = from_config(SD_CONFIG)
    assert pndm.ignored == ("clip_sample",)
    assert pndm == replace(pndm)
    ddim = DDIMScheduler.from_config(pndm.config)
    assert ddim.clip_sample is False
    assert ddim.ignored == ("skip_prk_steps",)
    back = DDIMScheduler.from_config(LMSDiscreteScheduler.from_config(ddim.config).config)
    assert back == ddim


# Classes that run each other's models switch freely; the others to one of those and back.
SWITCHES = [
    *product(INTERCHANGEABLE, repeat=2),
    *((name, "DDIMScheduler") for name in SCHEDULERS if name not in INTERCHANGEABLE),
    *(("DDIMScheduler", name) for name in SCHEDULERS if name not in INTERCHANGEABLE),
]


@pytest.mark.parametrize(("first", "second"), SWITCHES)
def test_switching_classes_keeps_what_diffusers_keeps(first: str, second: str) -> None:
    """A default of the first class does not become a choice in the second: timestep_spacing above all."""
    # The reference makes a tensor of every noise level of this one: 0.1 s for 2000 of them.
    few = {"num_train_timesteps": 50} if "ScoreSdeVeScheduler" in (first, second) else {}
    for config in (few, few | {"timestep_spacing": "trailing", "beta_end": 0.012}, few | SD_CONFIG):
        config = fitting(first, fitting(second, config))
        ours = from_config(from_config(config, first).config, second).config
        theirs = reference_scheduler(second, reference_scheduler(first, config).config).config
        for f in fields(SCHEDULERS[second]):
            assert ours[f.name] == frozen(theirs[f.name]), f.name
        theirs_from_ours = reference_scheduler(second, from_config(config, first).config).config
        assert theirs_from_ours.get("timestep_spacing") == theirs.get("timestep_spacing")


def test_names() -> None:
    for name in ("DDIMScheduler", "DDIM", "ddim", "ddimscheduler"):
        assert scheduler_class(name) is DDIMScheduler
    for short, full in {
        "euler": "EulerDiscrete",
        "EulerDiscrete": "EulerDiscrete",
        "euler-a": "EulerAncestralDiscrete",
        "lms": "LMSDiscrete",
        "plms": "PNDM",
        "dpm++": "DPMSolverMultistep",
    }.items():
        assert scheduler_class(short).__name__ == full + "Scheduler"
    with pytest.raises(InvalidArgument, match=r"unknown scheduler 'eulr': did you mean 'euler'\?"):
        from_config({}, "eulr")
    with pytest.raises(InvalidArgument, match=r"did you mean 'EulerDiscreteScheduler'\?"):
        from_config({}, "EulerDiscretScheduler")
    with pytest.raises(InvalidArgument, match="needs a _class_name"):
        from_config({})


def test_every_continuous_scheduler_of_the_reference_is_here_or_left_out_by_name() -> None:
    theirs = {name for name in dir(diffusers) if name.endswith("Scheduler") and not name.startswith("Flax")}
    ours = {*SCHEDULERS, *(f"{name}Scheduler" for name in LEFT_OUT)}
    assert theirs - ours == set()
    for name, why in LEFT_OUT.items():
        with pytest.raises(InvalidArgument, match=f"diffrt has no {name}Scheduler: {why}"):
            scheduler_class(f"{name}Scheduler")
    docs = (Path(__file__).parents[2] / "docs" / "schedulers.md").read_text()
    assert all(re.search(rf"\b{name.removesuffix('Scheduler')}\b", docs) for name in ours)


REFUSALS: list[tuple[str, dict[str, Any], str]] = [
    ("ddim", {"clip_sampel": True}, "no key 'clip_sampel': did you mean 'clip_sample'"),
    ("ddim", {"beta_schedule": "cosine"}, "beta_schedule = 'cosine', allowed: linear, scaled_linear"),
    ("ddim", {"num_train_timesteps": 0}, "num_train_timesteps = 0, allowed: from 1"),
    ("ddim", {"num_train_timesteps": "many"}, "allowed: a whole number"),
    ("ddim", {"clip_sample": "no"}, "allowed: True or False"),
    ("ddim", {"beta_end": float("nan")}, "allowed: a number"),
    ("ddim", {"beta_start": -1.0}, "above 0 and at most 1"),
    ("ddim", {"trained_betas": [0.1, 0.2]}, "2 betas from 0.1 to 0.2, needed: 1000"),
    ("ddim", {"trained_betas": []}, "0 betas, needed: 1000"),
    ("ddim", {"trained_betas": "x"}, "allowed: a list of numbers or None"),
    ("ddim", {"rescale_betas_zero_snr": True}, "needs prediction_type v_prediction or sample"),
    ("ddim", {"dynamic_thresholding_ratio": 2.0}, "allowed: from 0 to 1"),
    ("ddim", {"steps_offset": -1}, "steps_offset = -1, allowed: from 0"),
    ("pndm", {"prediction_type": "sample"}, "allowed: epsilon, v_prediction"),
    ("lms", {"use_karras_sigmas": True, "use_exponential_sigmas": True}, "exclude each other"),
    ("euler", {"sigma_min": 3.0, "sigma_max": 2.0}, "sigma_min = 3 must be below sigma_max = 2"),
    ("euler", {"sigma_max": 0.0}, "sigma_max = 0.0, allowed"),
    ("dpm++", {"algorithm_type": "dpmsolver"}, "set final_sigmas_type to sigma_min"),
    ("dpm++", {"solver_order": 4}, "solver_order = 4, allowed: 1, 2, 3"),
    ("dpm++", {"variance_type": "learned_range"}, "must put out the mean alone"),
    ("dpm++", {"prediction_type": "flow_prediction"}, "flow_prediction needs use_flow_sigmas"),
    (
        "dpm++",
        {"algorithm_type": "sde-dpmsolver", "final_sigmas_type": "sigma_min", "solver_order": 3},
        "sde-dpmsolver has no order 3",
    ),
    ("lcm", {"original_inference_steps": 1001}, "original_inference_steps = 1001, allowed: 1 to 1000"),
    ("tcd", {"original_inference_steps": 0}, "original_inference_steps = 0, allowed: from 1"),
    ("cm", {"num_train_timesteps": 1}, "num_train_timesteps = 1, allowed: from 2"),
    ("cm", {"sigma_min": 90.0}, "sigma_min = 90 must be below sigma_max = 80"),
    ("scm", {"prediction_type": "epsilon"}, "allowed: trigflow"),
    ("flow", {"shift": 0.0}, "shift = 0.0, allowed: from 1e-06"),
    ("flow", {"time_shift_type": "cubic"}, "allowed: exponential, linear"),
    ("flow", {"shift_terminal": 1.0}, "shift_terminal = 1.0, allowed: from 0"),
    ("flow", {"stochastic_sampling": True, "invert_sigmas": True}, "set invert_sigmas to False"),
    ("flow-lcm", {"invert_sigmas": True}, "set invert_sigmas to False"),
    ("flow-lcm", {"scale_factors": [0.5, 1.0]}, "which a table cannot: set it to None"),
    ("flow-lcm", {"use_karras_sigmas": True, "use_beta_sigmas": True}, "exclude each other"),
    ("ltxeulerancestralrf", {"s_noise": 0.0}, "set eta to 0"),
    ("ltxeulerancestralrf", {"eta": 1.5}, "eta = 1.5, allowed: from 0 to 1"),
    ("ipndm", {"trained_betas": [1.5, 0.0]}, "from 0 to 1"),
    ("scoresdeve", {"sigma_max": 0.001}, "must be below sigma_max"),
    ("scoresdevp", {"beta_min": 30.0}, "beta_min = 30, allowed: above 0 and at most beta_max = 20"),
    ("ddpm", {"variance_type": "large"}, "variance_type = 'large', allowed: fixed_small, fixed_small_log"),
    ("ddpm", {"beta_schedule": "exp"}, "allowed: linear, scaled_linear, squaredcos_cap_v2, sigmoid, laplace"),
    ("ddim-inverse", {"prediction_type": "sample"}, "set set_alpha_to_one to False"),
    ("ddim-inverse", {"timestep_spacing": "linspace"}, "allowed: leading, trailing"),
    ("unclip", {"beta_schedule": "linear"}, "allowed: squaredcos_cap_v2"),
    ("repaint", {"eta": 2.0}, "eta = 2.0, allowed: from 0 to 1"),
    ("repaint", {"trained_betas": [0.1]}, "needed: 1000"),
    ("cogvideoxdpm", {"snr_shift_scale": 0.0}, "snr_shift_scale = 0.0, allowed: from 1e-06"),
    ("wuerstchen", {"scaler": 0.0}, "scaler = 0.0, allowed: from 1e-06"),
    ("dpm++", {"use_flow_sigmas": True, "prediction_type": "v_prediction"}, "is not what a flow model predicts"),
    ("dpm++", {"use_flow_sigmas": True, "use_lu_lambdas": True}, "use_lu_lambdas exclude each other"),
    ("dpm++", {"use_flow_sigmas": True, "flow_shift": 0.0}, "flow_shift = 0.0, allowed: from 1e-06"),
    ("dpm++-2s", {"solver_order": 4}, "solver_order = 4, allowed: 1, 2, 3"),
    ("dpm++-2s", {"algorithm_type": "sde-dpmsolver"}, "allowed: dpmsolver, dpmsolver++, sde-dpmsolver++"),
    ("dpm-inverse", {"algorithm_type": "sde-dpmsolver++"}, "an inversion needs dpmsolver++ or dpmsolver"),
    ("dpm-inverse", {"use_flow_sigmas": True}, "inversion has no flow levels"),
    ("deis", {"solver_order": 4}, "solver_order = 4, allowed: 1, 2, 3"),
    ("deis", {"algorithm_type": "sde-dpmsolver++"}, "allowed: deis"),
    ("unipc", {"solver_order": 0}, "solver_order = 0, allowed: 1, 2, 3"),
    ("unipc", {"predict_x0": False}, "set final_sigmas_type to sigma_min"),
    ("unipc", {"shift_terminal": 0.1}, "shift_terminal needs use_flow_sigmas"),
    ("unipc", {"shift_terminal": 1.0, "use_flow_sigmas": True}, "shift_terminal = 1.0, allowed: from 0"),
    ("unipc", {"use_flow_sigmas": True, "predict_x0": False, "final_sigmas_type": "sigma_min"}, "needs predict_x0"),
    ("unipc", {"disable_corrector": [0.5]}, "disable_corrector = (0.5,), allowed: a list of numbers"),
    ("unipc", {"solver_p": "DDIM"}, "solver_p = 'DDIM', allowed: None"),
    ("sa", {"predictor_order": 5}, "predictor_order = 5, allowed: 1, 2, 3, 4"),
    ("sa", {"corrector_order": 0}, "corrector_order = 0, allowed: 1, 2, 3, 4"),
    ("sa", {"tau_func": 0.5}, "tau_func = 0.5, allowed: None"),
    ("sa", {"variance_type": "learned"}, "must put out the mean alone"),
    ("edm", {"prediction_type": "sample"}, "allowed: epsilon, v_prediction"),
    ("edm", {"sigma_min": 90.0}, "sigma_min = 90 must be below sigma_max = 80"),
    ("edm", {"rho": 0.0}, "rho = 0.0, allowed: from 1e-06"),
    ("edm-dpm++", {"algorithm_type": "sde-dpmsolver++", "solver_order": 3}, "has no order 3 here"),
    ("cosine-dpm++", {"solver_order": 3}, "solver_order = 3, allowed: 1, 2"),
    ("dpm++-sde", {"noise_sampler_seed": -1}, "noise_sampler_seed = -1, allowed: from 0"),
]


@pytest.mark.parametrize(("name", "config", "message"), REFUSALS)
def test_refusals(name: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        from_config(config, name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@each
@pytest.mark.parametrize("n", [0, -3, 10001, 2.5, "20", True, None])
def test_step_counts(name: str, n: Any) -> None:
    scheduler = SCHEDULERS[name]()
    most = scheduler.config.get("num_train_timesteps", "inf")
    for count in (n, *([most + 1] if most != "inf" else [])):
        if most == "inf" and count == 10001:
            continue  # its time is continuous
        with pytest.raises(InvalidArgument, match=rf"num_inference_steps = .*allowed: 1 to {most}"):
            scheduler.table(count)


@each
def test_more_refusals_of_a_run(name: str) -> None:
    scheduler = from_config(fitting(name, SD_CONFIG), name)
    for eta in (-0.1, 1.5, float("nan"), "x") + (() if "eta" in scheduler.options() else (0.5,)):
        with pytest.raises(InvalidArgument, match="eta = "):
            scheduler.table(10, eta=eta)  # type: ignore[arg-type]
    x = np.zeros((2, 3), np.float32)
    for t in (scheduler.first_time - 1, scheduler.last_time + 1, [1, 2, 3], float("nan")):
        with pytest.raises(InvalidArgument, match="timestep = "):
            scheduler.add_noise(x, x, t)
    n = case_of(name).count(5)
    assert scheduler.table(np.int64(n)).steps == n


def test_runs_that_cannot_be() -> None:
    with pytest.raises(InvalidArgument, match="4 or more"):
        from_config({"skip_prk_steps": False}, "pndm").table(3)
    with pytest.raises(InvalidArgument, match="timestep 1000 is beyond the last"):
        from_config({"steps_offset": 1}, "ddim").table(1000)
    for name in ("dpm++", "lms"):
        with pytest.raises(InvalidArgument, match="twice"):
            from_config({"steps_offset": 1, "timestep_spacing": "leading"}, name).table(1000)
    with pytest.raises(InvalidArgument, match="check the betas"):
        from_config({"trained_betas": [0.1] * 999 + [1.0]}, "euler").table(10)
    for name, options, message in (
        ("ddim", {"use_clipped_model_output": "yes"}, "allowed: True or False"),
        ("ddpm", {"timesteps": [500.5]}, "must be whole numbers, got 500.5"),
        ("ddpm", {"timesteps": [1000, 0]}, "begin at 1000, allowed: at most 999"),
        ("wuerstchen", {"timesteps": [0.5]}, "two or more, the last being the end"),
        ("wuerstchen", {"timesteps": [1.5, 0.5]}, "begin at 1.5, allowed: at most 1"),
        ("repaint", {"jump_length": 0}, "jump_length = 0, allowed: from 1"),
        ("repaint", {"jump_n_sample": 1.5}, "allowed: a whole number"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            from_config({}, name).table(None if "timesteps" in options else 10, **options)
    with pytest.raises(InvalidArgument, match="1, allowed: 2 to 1000"):
        from_config({}, "unclip").table(1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lcm", {"num_inference_steps": 51}, "num_inference_steps = 51, allowed: up to 50"),
        ("lcm", {"num_inference_steps": 26, "strength": 0.5}, "num_inference_steps = 26, allowed: up to 25"),
        ("tcd", {"num_inference_steps": 31, "original_inference_steps": 30}, "allowed: up to 30"),
        ("lcm", {"num_inference_steps": 4, "strength": 0}, "strength = 0, allowed: above 0, at most 1"),
        ("lcm", {"num_inference_steps": 4, "original_inference_steps": 1001}, "allowed: 1 to 1000"),
        ("lcm", {"timesteps": [999, 499], "strength": 0.5}, "give the timesteps of that part alone"),
        ("tcd", {"timesteps": [1000, 499]}, "begin at 1000, allowed: at most 999"),
        ("cm", {"timesteps": [40, 3]}, "timestep 40 is beyond the last, 39"),
        ("consistencydecoder", {"num_inference_steps": 3}, "num_inference_steps = 3, allowed: 2"),
        ("scm", {"num_inference_steps": 3, "intermediate_timesteps": 1.0}, "needs 2 steps, not 3"),
        ("scm", {"num_inference_steps": 2, "intermediate_timesteps": 1.6}, "allowed: between 0 and 1.5708"),
        (
            "scm",
            {"num_inference_steps": 2, "max_timesteps": 2.0},
            "max_timesteps = 2.0, allowed: above 0, at most 1.57",
        ),
        ("scm", {"timesteps": [1.5, 0.0], "max_timesteps": 1.5}, "drop those"),
        ("scm", {"timesteps": [1.5]}, "allowed: two or more, the last"),
        ("flow", {"num_inference_steps": 4, "mu": 1.0}, "needed with use_dynamic_shifting and refused without"),
        ("flow", {"sigmas": [1.5, 0.5]}, "the noise level 1.5 is above 1"),
        ("flow", {"timesteps": [1001.0, 0.5]}, "begin at 1001, allowed: at most 1000"),
        ("flow-heun", {"num_inference_steps": 4, "s_churn": 1.0}, "takes no s_churn"),
        ("ltxeulerancestralrf", {"sigmas": [1.0]}, "allowed: two or more, the last being the end"),
    ],
)
def test_options_that_cannot_be(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        from_config({}, name).table(**options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_flow_needs_a_mu_where_it_shifts_dynamically() -> None:
    with pytest.raises(InvalidArgument, match="mu = None: it is needed"):
        from_config({"use_dynamic_shifting": True}, "flow").table(4)
    with pytest.raises(InvalidArgument, match="take 2 or more steps"):
        from_config({"shift_terminal": 0.1}, "flow").table(1)
    with pytest.raises(InvalidArgument, match="set both"):
        from_config({"base_shift": None, "use_dynamic_shifting": True}, "flow").picture_options(4096)


@pytest.mark.parametrize(
    ("name", "config", "options", "message"),
    [
        ("heun", {"use_karras_sigmas": True}, {"timesteps": [9, 5]}, "timesteps and use_karras_sigmas exclude each"),
        ("heun", {}, {"timesteps": [5, 9]}, "timesteps must fall from each to the next, got 5 and then 9"),
        ("heun", {}, {"timesteps": [1000, 9]}, "begin at 1000, allowed: at most 999"),
        ("euler", {}, {"sigmas": [3.0]}, "sigmas: two or more"),
        ("euler", {}, {"sigmas": [3.0, 1.0], "timesteps": [9, 5]}, "and no timesteps"),
        ("euler", {}, {"num_inference_steps": 5, "s_churn": -1}, "s_churn = -1, allowed: from 0"),
        ("edm", {}, {"num_inference_steps": 5, "s_noise": "x"}, "s_noise = 'x', allowed"),
        ("edm", {}, {"sigmas": [3.0, 0.0]}, "a step must start from a finite one above 0"),
        (
            "euler",
            {"timestep_type": "continuous", "prediction_type": "v_prediction"},
            {"timesteps": [9, 5]},
            "exclude each other: give sigmas",
        ),
    ],
)
def test_options_that_cannot_be_met(name: str, config: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        from_config(config, name).table(**options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_classes_values_are_understood() -> None:
    """UniPC and DEIS configs name solvers that DPM-Solver reads as its own."""
    assert from_config({"solver_type": "bh2"}, "dpm++").config["solver_type"] == "midpoint"
    assert from_config({"algorithm_type": "deis"}, "dpm++").config["algorithm_type"] == "dpmsolver++"
    for name in ("euler", "dpm++", "ddim", "unipc"):
        assert from_config({"prediction_type": "original_sample"}, name).config["prediction_type"] == "sample"


def test_every_class_is_registered() -> None:
    for module in pkgutil.iter_modules(diffrt.schedulers.__path__, f"{diffrt.schedulers.__name__}."):
        importlib.import_module(module.name)
    assert {cls.__name__ for cls in derived(Scheduler) if cls.__name__.endswith("Scheduler")} == {*SCHEDULERS}


def derived(cls: type[Scheduler]) -> Iterator[type[Scheduler]]:
    for each in cls.__subclasses__():
        yield each
        yield from derived(each)


def test_type_checkers_let_every_scheduler_be_imported() -> None:
    """Strict ones follow an import here only where it says `as`."""
    tree = ast.parse(Path(diffrt.schedulers.__file__).read_text("utf-8"))
    imported = [alias for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert {*SCHEDULERS} <= {alias.name for alias in imported if alias.asname == alias.name}


def test_the_import_is_light() -> None:
    code = "import sys, diffrt.schedulers; print(*{m.split('.')[0] for m in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "diffusers", "scipy", "onnx", "onnxruntime", "jax", "transformers"} & set(loaded)
