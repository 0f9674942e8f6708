"""What the scheduler tests share: a nonlinear toy model, a run of diffusers' scheduler, and the same run of ours."""

import importlib
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers

from diffrt.schedulers import SCHEDULERS, apply_row, init_slots
from diffrt.schedulers.config import allows
from tests.schedulers.cases import case_of

SHAPE = (2, 3, 4, 5)

# stable-diffusion-v1-5's scheduler_config.json, but for num_train_timesteps, which is the default.
SD_CONFIG = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}

INTERCHANGEABLE = [name for name in SCHEDULERS if name in KarrasDiffusionSchedulers.__members__]

# Those whose pictures are compared; not all of them in CI. For several pictures the reference's DPMSolverSDE draws one
# Brownian path of all, and each of ours has its own.
QUICK = (
    "DDIM",
    "PNDM",
    "LMSDiscrete",
    "EulerDiscrete",
    "EulerAncestralDiscrete",
    "DPMSolverMultistep",
    "UniPCMultistep",
)
PICTURED = [
    pytest.param(name, marks=() if name.removesuffix("Scheduler") in QUICK else pytest.mark.slow)
    for name in (*INTERCHANGEABLE, "LCMScheduler", "TCDScheduler")
    if name != "DPMSolverSDEScheduler"
]


def fitting(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without values that the class does not allow: another beta_schedule than unCLIP's."""
    types = {f.name: f.type for f in fields(SCHEDULERS[name])}
    return {key: value for key, value in config.items() if key not in types or allows(types[key], value)}


# Classes that the reference does not export at its top.
SUBMODULES = {
    "ScoreSdeVpScheduler": "diffusers.schedulers.deprecated.scheduling_sde_vp",
    "ConsistencyDecoderScheduler": "diffusers.schedulers.scheduling_consistency_decoder",
}


def toy_model(x: np.ndarray, t: float, outputs: int = 1) -> np.ndarray:
    """A smooth network: mixes pixels, depends on t, bounded. A second output, from 0 to 1, has channels of its own."""
    m = (1.1 * np.tanh(0.8 * x + 0.3 * np.roll(x, 1, axis=-1) + np.cos(t / 170))).astype(x.dtype)
    return m if outputs == 1 else np.concatenate([m, (1 + np.cos(m + x)) / 2], axis=1).astype(x.dtype)


def network(name: str, x: np.ndarray, t: float, outputs: int = 1) -> np.ndarray:
    """The toy network as one of the kind that a class is for."""
    m, kind = toy_model(x, t, outputs), case_of(name).network
    return m if kind is None else kind(m, x, t).astype(x.dtype)


def start_noise(dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(7).standard_normal(SHAPE, np.float32).astype(dtype)


def draws(count: int) -> list[np.ndarray]:
    """Unit noise."""
    rng = np.random.default_rng(3)
    return [rng.standard_normal(SHAPE, np.float32) for _ in range(count)]


@dataclass
class Run:
    timesteps: np.ndarray
    sigmas: np.ndarray | None
    init_sigma: float
    samples: list[np.ndarray] = field(default_factory=list)  # after each evaluation
    noise: list[list[np.ndarray]] = field(default_factory=list)  # the draws of each evaluation
    starts: np.ndarray | None = None  # ours: which evaluations begin a step


def run_table(
    name: str,
    config: Mapping[str, Any],
    n: int | None,
    options: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    noise: list[list[np.ndarray]] | None = None,
) -> Run:
    """A run of ours through the NumPy interpreter, in that dtype. An evaluation takes the last of its draws."""
    scheduler = SCHEDULERS[name].from_config(config)
    table = scheduler.table(n, **(options or {}))
    stepper = scheduler.stepper(n, **(options or {}))
    run = Run(table.t, stepper.sigmas, table.init_sigma, noise=noise or [[] for _ in range(table.evals)])
    run.starts = np.append(True, np.diff(table.step_of) > 0)
    if noise is None:
        run.noise = [[z.astype(dtype)] for z in draws(table.evals)]
    slots = init_slots(table, start_noise(dtype) * np.dtype(dtype).type(table.init_sigma))
    outputs = case_of(name).outputs if table.spread else 1
    for i in range(table.evals):
        m = None
        if table.calls[i]:
            m = network(name, slots[0] * slots[0].dtype.type(table.c_in[i]), float(table.t[i]), outputs)
        slots = apply_row(table, i, slots, m, run.noise[i][-1] if table.noisy[i] else None)
        run.samples.append(slots[0].copy())
    return run


def reference_class(name: str) -> Any:
    return getattr(importlib.import_module(SUBMODULES.get(name, "diffusers")), name)


# Classes whose constructors look up the time of every training step, one by one, which is overwritten before a run.
SLOW = ("KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "DPMSolverSDEScheduler")


def reference_scheduler(name: str, config: Mapping[str, Any]) -> Any:
    cls = reference_class(name)
    if name not in SLOW:
        return cls.from_config(dict(config))
    with mock.patch.object(cls, "set_timesteps", lambda self, *_: setattr(self, "sigmas", torch.zeros(1))):
        return cls.from_config(dict(config))


class Reference:
    """A run of diffusers' scheduler as it goes: what a Case's `drive` works with."""

    def __init__(self, name: str, scheduler: Any, options: Mapping[str, Any], dtype: str) -> None:
        self.name, self.case, self.scheduler, self.options, self.dtype = (
            name,
            case_of(name),
            scheduler,
            dict(options),
            dtype,
        )
        sigmas = getattr(scheduler, "sigmas", None)
        sigmas = sigmas.float().numpy() if isinstance(sigmas, torch.Tensor) else sigmas
        init_sigma = float(getattr(scheduler, "init_noise_sigma", 1))
        self.run = Run(np.asarray(scheduler.timesteps), sigmas, init_sigma)
        self.x = torch.from_numpy(start_noise(dtype)) * self.run.init_sigma
        self._generator = torch.Generator().manual_seed(3)
        self._draws: list[np.ndarray] = []

    def model(self, x: torch.Tensor, t: Any) -> torch.Tensor:
        spread = getattr(self.scheduler.config, "variance_type", None) in ("learned", "learned_range")
        outputs = self.case.outputs if spread else 1
        return torch.from_numpy(network(self.name, x.numpy(), float(np.asarray(t).reshape(-1)[0]), outputs))

    def randn(self, *_: Any, **__: Any) -> torch.Tensor:
        """Unit noise; remembered as a draw of the present evaluation."""
        z = torch.randn(SHAPE, generator=self._generator, dtype=getattr(torch, self.dtype))
        self._draws.append(z.numpy())
        return z

    def done(self, x: torch.Tensor) -> None:
        """The evaluation (or the noise of a row without one) is over, and x is what came of it."""
        self.x = x
        self.run.samples.append(x.numpy().copy())
        self.run.noise.append(self._draws)
        self._draws = []

    def named(self, function: Any) -> dict[str, Any]:
        """Those of the options that a function of the reference names."""
        accepts = inspect.signature(function).parameters
        return {key: value for key, value in self.options.items() if key in accepts}

    def plain(self) -> None:
        """diffusers' loop."""
        extra = self.named(self.scheduler.step)
        for t in self.scheduler.timesteps:
            x = self.scheduler.scale_model_input(self.x, t) if hasattr(self.scheduler, "scale_model_input") else self.x
            m = self.model(x, t)
            self.done(self.scheduler.step(m, t, self.x, **extra).prev_sample)


def run_reference(
    name: str,
    config: Mapping[str, Any],
    n: int | None,
    options: Mapping[str, Any] | None = None,
    dtype: str = "float32",
) -> Run:
    """The reference's own loop. In float64 the values of its float32 schedule stay, and what a step makes of them is
    computed in float64: what then differs is the formula, not digits lost on the way."""
    options = options or {}
    scheduler = reference_scheduler(name, config)
    module = sys.modules[type(scheduler).__module__]
    if case_of(name).prepare:
        case_of(name).prepare(scheduler, n, options)
    elif hasattr(scheduler, "set_timesteps"):
        accepts = inspect.signature(scheduler.set_timesteps).parameters
        given = {key: value for key, value in options.items() if key in accepts}
        custom = {"timesteps", "sigmas"} & set(given)
        scheduler.set_timesteps(**given) if custom and n is None else scheduler.set_timesteps(n, **given)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)  # else a repeated first timestep starts at the second (see test_golden)
    reference = Reference(name, scheduler, options, dtype)
    kept = {key: getattr(module, key) for key in ("randn_tensor", "BrownianTreeNoiseSampler") if hasattr(module, key)}
    for key in kept:
        setattr(module, key, reference.randn if key == "randn_tensor" else lambda *_, **__: reference.randn)
    kept["torch"] = torch
    if dtype == "float64":
        for key, value in vars(scheduler).items():
            if isinstance(value, torch.Tensor) and value.dtype == torch.float32:
                setattr(scheduler, key, value.double())
        module.torch = _DoubleTorch()
    try:
        (reference.case.drive or Reference.plain)(reference)
    finally:
        for key, value in kept.items():
            setattr(module, key, value)
    return reference.run


class _DoubleTorch:
    """torch, as seen by a scheduler whose steps cast to float32, with float64 in its place."""

    def __getattr__(self, name: str) -> Any:
        return torch.float64 if name == "float32" else getattr(torch, name)


def worst(ours: Run, reference: Run) -> float:
    """The largest difference of any intermediate sample, relative to that sample's largest value."""
    assert len(ours.samples) == len(reference.samples)
    return max(
        float(np.abs(a - b).max() / (np.abs(b).max() or 1))
        for a, b in zip(ours.samples, reference.samples, strict=True)
    )
