"""What the scheduler tests share: a nonlinear toy model, a run of diffusers' scheduler, and the same run of ours."""

import inspect
import sys
from dataclasses import dataclass, field
from typing import Any

import diffusers
import numpy as np
import torch

from diffrt.schedulers import SCHEDULERS, apply_row, init_slots

SHAPE = (2, 3, 4, 5)

# stable-diffusion-v1-5's scheduler_config.json.
SD_CONFIG = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}


def toy_model(x: np.ndarray, t: float) -> np.ndarray:
    """A smooth network: mixes pixels, depends on t, bounded."""
    return (1.1 * np.tanh(0.8 * x + 0.3 * np.roll(x, 1, axis=-1) + np.cos(t / 170))).astype(x.dtype)


def start_noise(dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(7).standard_normal(SHAPE, np.float32).astype(dtype)


def draws(count: int, dtype: str = "float32") -> list[np.ndarray]:
    """The unit noise a reference scheduler draws, once in every step."""
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(SHAPE, generator=generator, dtype=getattr(torch, dtype)).numpy() for _ in range(count)]


@dataclass
class Run:
    timesteps: np.ndarray
    sigmas: np.ndarray | None
    init_sigma: float
    samples: list[np.ndarray] = field(default_factory=list)


def run_table(name: str, config: dict[str, Any], n: int, eta: float = 0.0, dtype: str = "float32") -> Run:
    """A run of ours through the NumPy interpreter, in that dtype."""
    scheduler = SCHEDULERS[name].from_config(config)
    table = scheduler.table(n, eta=eta)
    run = Run(table.t, scheduler.grid(n).sigmas, table.init_sigma)
    noise = draws(table.evals, dtype)
    slots = init_slots(table, start_noise(dtype) * np.dtype(dtype).type(table.init_sigma))
    for i in range(table.evals):
        m = toy_model(slots[0] * slots.dtype.type(table.c_in[i]), float(table.t[i]))
        slots = apply_row(table, i, slots, m, noise[i] if table.noisy[i] else None)
        run.samples.append(slots[0].copy())
    return run


def reference_scheduler(name: str, config: dict[str, Any]) -> Any:
    return getattr(diffusers, name).from_config(config)


def run_reference(name: str, config: dict[str, Any], n: int, eta: float = 0.0, dtype: str = "float32") -> Run:
    """The reference's own loop. In float64 the values of its float32 schedule stay, and what a step makes of them is
    computed in float64: what then differs is the formula, not digits lost on the way."""
    scheduler = reference_scheduler(name, config)
    scheduler.set_timesteps(n)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)  # else a repeated first timestep starts at the second (see test_golden)
    sigmas = scheduler.sigmas.numpy() if hasattr(scheduler, "sigmas") else None
    run = Run(scheduler.timesteps.numpy(), sigmas, float(scheduler.init_noise_sigma))
    accepts = inspect.signature(scheduler.step).parameters
    extra = {"eta": eta} if "eta" in accepts else {}
    if "generator" in accepts:
        extra["generator"] = torch.Generator().manual_seed(3)
    module = sys.modules[type(scheduler).__module__]
    if dtype == "float64":
        for schedule in ("alphas_cumprod", "final_alpha_cumprod", "sigmas"):
            if hasattr(scheduler, schedule):
                setattr(scheduler, schedule, getattr(scheduler, schedule).double())
        module.torch = _DoubleTorch()
    try:
        x = torch.from_numpy(start_noise(dtype)) * run.init_sigma
        for t in scheduler.timesteps:
            m = toy_model(scheduler.scale_model_input(x, t).numpy(), float(t))
            x = scheduler.step(torch.from_numpy(m), t, x, **extra).prev_sample
            run.samples.append(x.numpy().copy())
    finally:
        module.torch = torch
    return run


class _DoubleTorch:
    """torch, as seen by a scheduler whose steps cast to float32, with float64 in its place."""

    def __getattr__(self, name: str) -> Any:
        return torch.float64 if name == "float32" else getattr(torch, name)


def worst(ours: Run, reference: Run) -> float:
    """The largest difference of any intermediate sample, relative to that sample's largest value."""
    assert len(ours.samples) == len(reference.samples)
    return max(
        float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(ours.samples, reference.samples, strict=True)
    )
