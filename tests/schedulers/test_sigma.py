"""What the sweep cannot say of samplers in sigma: Brownian noise that is not recorded but drawn, and custom levels."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from diffrt.brownian import row_noise
from diffrt.noise import generators
from diffrt.schedulers import SCHEDULERS, Table
from tests.schedulers.reference import SD_CONFIG, SHAPE, Run, reference_scheduler, start_noise, toy_model, worst
from tests.schedulers.test_golden import TOLERANCE

SDE = SD_CONFIG | {"noise_sampler_seed": 11}


def loop(scheduler: Any, step: Any, images: int) -> Run:
    """diffusers' loop over either of the two."""
    x = start_noise()[:images] * np.float32(scheduler.init_noise_sigma)
    run = Run(scheduler.timesteps, None, 1.0)
    for i, t in enumerate(scheduler.timesteps):
        m = toy_model(np.asarray(scheduler.scale_model_input(x, t)), float(t))
        x = step(i, m, t, x)
        run.samples.append(x)
    return run


def ours(scheduler: Any, table: Table, n: int, seeds: tuple[int, ...]) -> Run:
    stepper, draw = scheduler.stepper(n), row_noise(table, generators(seeds), seeds, "torch-cpu", SHAPE[1:])
    return loop(
        stepper, lambda i, m, t, x: stepper.step(m, t, x, draw(i) if table.noisy[i] else None).prev_sample, len(seeds)
    )


class Tensors:
    """The reference's scheduler, which takes tensors, and remembers where it reads its path."""

    def __init__(self, name: str, config: dict[str, Any], n: int, **options: Any) -> None:
        self.scheduler, self.options, self.read = reference_scheduler(name, config), options, []
        self.scheduler.set_timesteps(n)
        self.timesteps, self.init_noise_sigma = self.scheduler.timesteps, self.scheduler.init_noise_sigma

    def scale_model_input(self, x: np.ndarray, t: Any) -> np.ndarray:
        return self.scheduler.scale_model_input(torch.from_numpy(x), t).numpy()

    def step(self, i: int, m: np.ndarray, t: Any, x: np.ndarray) -> np.ndarray:
        return self.scheduler.step(torch.from_numpy(m), t, torch.from_numpy(x), **self.options).prev_sample.numpy()


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """Where the reference reads its path."""
    from diffusers.schedulers.scheduling_dpmsolver_sde import BrownianTreeNoiseSampler as Sampler

    read, call = [], Sampler.__call__
    monkeypatch.setattr(Sampler, "__call__", lambda self, a, b: read.append((float(a), float(b))) or call(self, a, b))
    return read


@pytest.mark.filterwarnings("ignore:Should have")
@pytest.mark.parametrize("config", [SDE, SDE | {"use_karras_sigmas": True}, SDE | {"timestep_spacing": "trailing"}])
def test_the_sde_with_its_own_noise(config: dict[str, Any], readings: list[tuple[float, float]]) -> None:
    """noise_sampler_seed gives the reference's picture, its Brownian path included."""
    name, n = "DPMSolverSDEScheduler", 8
    reference = Tensors(name, config, n)
    expected = loop(reference, reference.step, 1)
    scheduler = SCHEDULERS[name].from_config(config)
    table = scheduler.table(n)
    read = np.array(readings)
    # Midpoints are exponentials of float32 logarithms below 4, which torch rounds as the processor has it: a unit of
    # the last place of each. The path is then read where torch reads it.
    np.testing.assert_allclose(table.between[:-1], read, rtol=2**-22 + 2**-23)
    table = replace(table, between=np.concatenate([read, table.between[-1:]]))
    assert worst(ours(scheduler, table, n, (3,)), expected) < TOLERANCE


@pytest.mark.filterwarnings("ignore:Should have")
@pytest.mark.parametrize("schedule", ["exponential", "karras"])
def test_the_cosine_sde_with_its_own_noise(schedule: str, readings: list[tuple[float, float]]) -> None:
    """Two images, each of its generator's seed."""
    name, n, seeds = "CosineDPMSolverMultistepScheduler", 8, (5, 2**40 + 1)
    made = [torch.Generator().manual_seed(seed) for seed in seeds]
    reference = Tensors(name, {"sigma_schedule": schedule}, n, generator=made)
    expected = loop(reference, reference.step, 2)
    scheduler = SCHEDULERS[name].from_config({"sigma_schedule": schedule})
    table, read = scheduler.table(n), np.array(readings)
    np.testing.assert_allclose(table.between, read, rtol=5e-7)
    assert worst(ours(scheduler, replace(table, between=read), n, seeds), expected) < TOLERANCE


def test_a_later_start_reads_the_same_path() -> None:
    scheduler = SCHEDULERS["DPMSolverSDEScheduler"].from_config(SDE)
    whole, rest = scheduler.table(6), scheduler.table(6, skip=2)
    assert rest.path == whole.path
    assert np.array_equal(rest.between, whole.between[4:])


@pytest.mark.parametrize("final", ["zero", "sigma_min"])
def test_custom_levels_of_edm(final: str) -> None:
    """Fault B2: the reference is told the places on its curve where the levels are."""
    name, config = "EDMEulerScheduler", {"final_sigmas_type": final}
    reference = reference_scheduler(name, config)
    places = torch.tensor([0.0, 0.2, 0.5, 0.55, 0.9], dtype=torch.float64)
    reference.set_timesteps(sigmas=places)
    levels = reference.sigmas[:-1].numpy()
    stepper = SCHEDULERS[name].from_config(config).stepper(sigmas=levels)
    np.testing.assert_allclose(stepper.timesteps, reference.timesteps, rtol=2e-7)
    np.testing.assert_allclose(stepper.sigmas, reference.sigmas, rtol=2e-7)
