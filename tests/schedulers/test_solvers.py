"""What is special about the exponential integrators: their weights, their options, and where they may start."""

from typing import Any

import numpy as np
import pytest
import torch

from diffrt.errors import InvalidArgument
from diffrt.schedulers import SCHEDULERS, apply_row, from_config, init_slots
from diffrt.schedulers.exponential import weights
from tests.schedulers.cases.solver import CASES
from tests.schedulers.reference import SD_CONFIG, reference_scheduler, start_noise, toy_model


@pytest.mark.parametrize("k", [1.0, 2.0, -1.0])
@pytest.mark.parametrize("h", [1e-4, 0.05, 0.4, 0.6, 3.0])
def test_weights_integrate_polynomials(h: float, k: float) -> None:
    """Against Gauss-Legendre quadrature, on a grid that is not even, for a predictor and a corrector."""
    points, masses = np.polynomial.legendre.leggauss(40)
    start, end = -1.3, -1.3 + h
    at = start + h * (points + 1) / 2
    for lams in ([start, start - h, start - 2.5 * h, start - 3 * h], [end, start, start - h, start - 3 * h]):
        for order in range(1, 5):
            got = weights(lams[:order], start, end, k)
            for power in range(order):
                values = (np.array(lams[:order]) - start) ** power / h**power
                exact = k * h / 2 * np.dot(masses, np.exp(k * (at - end)) * ((at - start) / h) ** power)
                assert np.dot(got, values) == pytest.approx(exact, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("name", [name for name in CASES if "timesteps" in SCHEDULERS[name].options()])
def test_custom_timesteps_that_are_the_usual_ones(name: str) -> None:
    """Also of those classes whose reference takes none."""
    scheduler = from_config(SD_CONFIG, name)
    usual = scheduler.table(9)
    custom = scheduler.table(timesteps=usual.t)
    np.testing.assert_array_equal(custom.sigma, usual.sigma)
    np.testing.assert_array_equal(custom.W, usual.W)


@pytest.mark.parametrize("skip", [1, 2, 5, 7])
@pytest.mark.parametrize("options", [{}, {"solver_order": 3, "predictor_order": 3, "corrector_order": 4}])
@pytest.mark.parametrize("name", [name for name in CASES if "Inverse" not in name])
def test_a_start_in_the_middle(name: str, options: dict[str, Any], skip: int) -> None:
    """Image-to-image, as diffusers' pipelines do it with set_begin_index."""
    n = 8
    reference = reference_scheduler(name, SD_CONFIG | options)
    reference.set_timesteps(n)
    reference.set_begin_index(skip)
    table = SCHEDULERS[name].from_config(SD_CONFIG | options).table(n, skip=skip)
    x = torch.from_numpy(start_noise())
    slots, generator = init_slots(table, start_noise()), torch.Generator().manual_seed(1)
    noise = [torch.randn(x.shape, generator=generator).numpy() for _ in range(n)]
    extra = {"generator": torch.Generator().manual_seed(1)} if name.startswith("SA") else {}
    for i, t in enumerate(reference.timesteps[skip:]):
        assert table.t[i] == t
        m = toy_model(x.numpy(), float(t))
        x = reference.step(torch.from_numpy(m), t, x, **extra).prev_sample
        slots = apply_row(table, i, slots, toy_model(slots[0], table.t[i]), noise[i])
        np.testing.assert_allclose(slots[0], x.numpy(), rtol=0, atol=2e-5 * np.abs(x.numpy()).max())


REFUSALS: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("dpm++", {}, {"timesteps": [1000, 3]}, "timesteps begin at 1000, allowed: at most 999"),
    (
        "dpm++",
        {"use_karras_sigmas": True},
        {"timesteps": [900, 3]},
        "timesteps and re-spaced or flow sigmas exclude each other",
    ),
    (
        "dpm++-2s",
        {"use_flow_sigmas": True},
        {"timesteps": [900, 3]},
        "timesteps and re-spaced or flow sigmas exclude each other",
    ),
    ("dpm++", {}, {"timesteps": [900.5, 900.1]}, "twice"),
    ("dpm++", {}, {"num_inference_steps": 4, "mu": 1.0}, "set use_dynamic_shifting, or leave mu out"),
    ("deis", {"use_dynamic_shifting": True}, {"num_inference_steps": 4, "mu": 99}, "mu = 99, allowed"),
    ("unipc", {}, {"sigmas": [1.0, 0.5]}, "sigmas are for flows: set use_flow_sigmas"),
    ("unipc", {"use_flow_sigmas": True}, {"sigmas": [1.5, 0.5]}, "sigmas begin at 1.5, allowed: at most 1"),
    (
        "unipc",
        {"use_flow_sigmas": True, "use_karras_sigmas": True},
        {"sigmas": [1.0, 0.5]},
        "sigmas cannot be chosen where",
    ),
    (
        "unipc",
        {"use_karras_sigmas": True, "sigma_min": 500.0},
        {"num_inference_steps": 4},
        "sigma_min = 500 must be below",
    ),
    (
        "unipc",
        {"use_flow_sigmas": True, "use_dynamic_shifting": True},
        {"num_inference_steps": 4},
        "use_dynamic_shifting needs mu",
    ),
    (
        "unipc",
        {"use_flow_sigmas": True, "shift_terminal": 0.1},
        {"num_inference_steps": 1},
        "has no room",
    ),
    (
        "dpm++",
        {"use_flow_sigmas": True, "algorithm_type": "sde-dpmsolver++", "final_sigmas_type": "sigma_min"},
        {"num_inference_steps": 200},
        "cannot step up",
    ),
]


@pytest.mark.parametrize(("name", "config", "options", "message"), REFUSALS)
def test_refusals(name: str, config: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        from_config(config, name).table(**options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
