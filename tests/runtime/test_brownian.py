"""Brownian paths against torchsde, as diffusers uses it."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torchsde
from diffusers.schedulers.scheduling_dpmsolver_sde import BrownianTreeNoiseSampler

from diffrt.brownian import BrownianPath, row_noise
from diffrt.noise import generators
from diffrt.schedulers import from_config

LOW, HIGH = float(np.float32(0.0292)), float(np.float32(14.6146))


def theirs(low, high, seed, shape):
    return torchsde.BrownianInterval(
        t0=low, t1=high, size=shape, dtype=torch.float32, entropy=seed, tol=1e-6, pool_size=24, halfway_tree=True
    )


def falling(low, high, n, seed=0):
    """n times from high to low, as float32 holds them."""
    inner = np.sort(np.random.default_rng(seed).uniform(low, high, n - 2))[::-1]
    return np.array([high, *inner, low], np.float32).astype(float)


@pytest.mark.filterwarnings("ignore:Should have")  # torchsde's, of ends that it has rounded
@pytest.mark.parametrize(("seed", "shape"), [(0, (4, 8, 8)), (7, (3,)), (2**63 + 5, (1, 5, 7)), (2**32, (2, 3, 4, 5))])
@pytest.mark.parametrize(("low", "high"), [(LOW, HIGH), (float(np.float32(0.3)), 500.0), (0.002, 80.0)])
def test_equals_torchsde(low, high, seed, shape):
    """Queries as both schedulers make them, then some anywhere: bit for bit."""
    ours, reference = BrownianPath(low, high, seed, shape), theirs(low, high, seed, shape)
    times = falling(low, high, 12)
    queries = [(b, a) for a, b in pairwise(times)]
    queries += [q for a, b in pairwise(times) for q in (((a + b) / 2, a), (b, a))]
    rng = np.random.default_rng(1)
    queries += [tuple(np.sort(rng.uniform(low, high, 2))) for _ in range(10)]
    for a, b in queries:
        expected = reference(a, b).numpy()
        np.testing.assert_array_equal(ours(a, b), expected)
        np.testing.assert_array_equal(ours(b, a), -expected)


@pytest.mark.filterwarnings("ignore:Should have")
def test_beyond_and_within_the_last_digit():
    ours, reference = BrownianPath(LOW, HIGH, 3, (4,)), theirs(LOW, HIGH, 3, (4,))
    for a, b in [(0.0, 1.0), (1.0, 20.0), (-1.0, 99.0), (2.0, 2.000001), (2.0, 2.0)]:
        np.testing.assert_array_equal(ours(a, b), reference(a, b).numpy())
    assert not ours(2.0, 2.0000001).any()  # torchsde does not come back from that


def test_the_order_of_readings_does_not_matter():
    times = falling(LOW, HIGH, 9)
    pairs = list(pairwise(times))
    there, back = BrownianPath(LOW, HIGH, 1, (50,)), BrownianPath(LOW, HIGH, 1, (50,))
    forth = [there(a, b) for a, b in pairs]
    assert all(np.array_equal(x, y) for x, y in zip(forth, [back(a, b) for a, b in pairs[::-1]][::-1], strict=True))
    np.testing.assert_allclose(sum(forth), there(HIGH, LOW), atol=1e-5)


SDE = {"beta_schedule": "scaled_linear"}


@pytest.mark.parametrize("seeds", [(5, 6), (0, 2**40)])
def test_rows_are_the_samplers_increments(seeds):
    """One seed for each image, as the reference takes them from a list of generators. The square root of the interval
    is NumPy's: on some processors PyTorch's is a digit off."""
    table = from_config(SDE, "DPMSolverSDEScheduler").table(6)
    draw = row_noise(table, generators(seeds), seeds, "torch-cpu", (4, 6, 5))
    sampler = BrownianTreeNoiseSampler(torch.zeros(2, 4, 6, 5), table.path.low, table.path.high, list(seeds))
    for i in np.flatnonzero(table.noisy):
        a, b = torch.tensor(table.between[i], dtype=torch.float32)
        increments, root = sampler.tree(a, b).numpy(), np.sqrt(np.float32((b - a).abs()))
        np.testing.assert_array_equal(draw(i), increments / root)
        np.testing.assert_allclose(draw(i), sampler(a, b).numpy(), rtol=3e-7)


def test_a_named_seed_gives_every_image_its_path():
    table = from_config(SDE | {"noise_sampler_seed": 11}, "DPMSolverSDEScheduler").table(4)
    z = row_noise(table, generators((1, 2)), (1, 2), "torch-cpu", (4, 6, 5))(0)
    assert np.array_equal(z[0], z[1])
    other = from_config(SDE, "DPMSolverSDEScheduler").table(4)
    assert np.array_equal(z[:1], row_noise(other, generators((11,)), (11,), "torch-cpu", (4, 6, 5))(0))


def test_other_tables_draw_from_the_streams():
    table = from_config({}, "EulerAncestralDiscreteScheduler").table(3)
    draw, streams = row_noise(table, generators((1, 2)), (1, 2), "torch-cpu", (5, 4)), generators((1, 2))
    for i in range(2):
        np.testing.assert_array_equal(draw(i), np.stack([s.randn((5, 4)) for s in streams]))
