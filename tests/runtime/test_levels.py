"""A denoiser that is told sigma draws what the same model draws in the form that each scheduler asks for."""

from functools import partial

import numpy as np
import pytest

from diffrt import schedulers
from diffrt.denoise import denoise, start
from diffrt.errors import InvalidArgument
from diffrt.levels import of_levels
from diffrt.schedulers import from_config

DATA = 0.4  # deviation of the data about 0.3


def picture(x, sigma):
    """The exact denoiser of Gaussian data."""
    return np.float32(0.3) + (x - np.float32(0.3)) * np.float32(DATA**2 / (DATA**2 + sigma**2))


def network(table, prediction, x, t, row):
    """The same as a network of noise, v or the picture."""
    alpha, sigma = table.alpha[row], table.sigma[row]
    x = x / np.float32(table.c_in[row])
    x0 = picture(x / np.float32(alpha), sigma / alpha)
    eps = (x - np.float32(alpha) * x0) / np.float32(sigma)
    size = np.hypot(alpha, sigma)  # of levels in which alpha is 1, v is that of x / size
    v = np.float32(alpha / size) * eps - np.float32(sigma / size) * x0
    return {"epsilon": eps, "sample": x0, "v_prediction": v}[prediction]


SAMPLERS = [
    (name, prediction)
    for name in ("ddim", "ddpm", "euler", "heun", "dpm++", "unipc", "lms", "pndm", "euler-a")
    for prediction in ("epsilon", "v_prediction", "sample")
    if (name, prediction) not in {("pndm", "sample"), ("euler-a", "sample")}  # which take none
]


@pytest.mark.parametrize(("name", "prediction"), SAMPLERS)
def test_any_scheduler_runs_one(name, prediction):
    config = {"beta_schedule": "scaled_linear", "prediction_type": prediction, "clip_sample": False}
    table = from_config(config, name).table(12)
    z = np.random.default_rng(0).standard_normal((1 + table.evals, 2, 1, 4, 4)).astype(np.float32)
    ends = []
    for model in (partial(network, table, prediction), of_levels(lambda x, sigma, row: picture(x, sigma), table)):
        *_, last = denoise(table, model, start(table, z[0]), lambda i: z[1 + i])
        ends.append(last.latents)
    assert ends[0].std() > 0.1
    np.testing.assert_allclose(ends[1], ends[0], atol=2e-5)


@pytest.mark.parametrize("name", ["EDMEulerScheduler", "CMStochasticIterativeScheduler"])
def test_their_levels_are_karras_own(name):
    """A consistency model's first step is the picture."""
    table, told = from_config({"clip_denoised": False}, name).table(1), []

    def denoiser(x, sigma, row):
        told.append((x, sigma))
        return picture(x, sigma)

    x = start(table, np.random.default_rng(0).standard_normal((2, 1, 4, 4)).astype(np.float32))
    (step,) = denoise(table, of_levels(denoiser, table), x, lambda i: 0 * x)
    np.testing.assert_allclose(told[0][0], x, rtol=1e-6)
    assert told[0][1] == pytest.approx(80, rel=1e-4)
    np.testing.assert_allclose(step.latents, picture(x, told[0][1]), atol=1e-5)


def test_what_no_sigma_tells():
    flow = schedulers.FlowMatchEulerDiscreteScheduler()
    with pytest.raises(InvalidArgument, match="noise alone"):
        of_levels(picture, flow.table(4))
    learned = schedulers.DDPMScheduler(variance_type="learned_range")
    with pytest.raises(InvalidArgument, match="variance_type"):
        of_levels(picture, learned.table(4))
