"""Rescaled, interrupted and CFG++ guidance: against diffusers' guiders and against the papers' own steps."""

import numpy as np
import pytest

from diffrt.denoise import denoise, start
from diffrt.errors import InvalidArgument
from diffrt.guidance import factors, guide, rescaled
from diffrt.schedulers import SCHEDULERS

torch = pytest.importorskip("torch")
import diffusers  # noqa: E402
from diffusers.guiders import ClassifierFreeGuidance  # noqa: E402

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 4, 5, 7), np.float32)
EMBEDS, NEGATIVE = ({"embeds": np.full((2, 3, 4), value, np.float32)} for value in (0.7, -0.4))
NOISE = RNG.standard_normal((50, *X.shape), np.float32)


def network(x, t, conditions):
    """Bends x by t and by what it is told."""
    told = conditions["embeds"].mean(axis=(1, 2))[:, None, None, None]
    return np.tanh(x * (1 + told) + np.roll(x, 1, -1) * np.float32(0.3) + np.float32(t / 900)).astype(np.float32)


class Counting:
    """The network; and how large the batches were."""

    def __init__(self):
        self.sizes = []

    def __call__(self, x, t, conditions):
        self.sizes.append(len(x))
        return network(x, t, conditions)


def test_rescaling_equals_diffusers():
    m, with_prompt = RNG.standard_normal((2, 3, 4, 8, 9), np.float32) * np.float32(3) + np.float32(0.5)
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

    for share in (0.3, 1.0):
        expected = rescale_noise_cfg(torch.from_numpy(m), torch.from_numpy(with_prompt), share).numpy()
        np.testing.assert_allclose(rescaled(m, with_prompt, share), expected, rtol=2e-6)
        alone = rescaled(m[1:2], with_prompt[1:2], share)
        np.testing.assert_array_equal(rescaled(m, with_prompt, share)[1:2], alone)  # whatever the batch


@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.25, 0.8), (0.0, 0.5), (0.5, 0.5), (0.29, 1.0)])
@pytest.mark.parametrize("name", ["DDIMScheduler", "PNDMScheduler"])
def test_intervals_are_those_of_diffusers_guiders(name, interval):
    """Guided steps, values and rescaling; outside the interval, half a batch. PNDM has more rows than steps."""
    table = SCHEDULERS[name].from_config(SD).table(10)
    by_row = factors(table, interval, False)
    guider = ClassifierFreeGuidance(6.0, 0.4, start=interval[0], stop=interval[1])
    counting = Counting()
    model = guide(counting, EMBEDS, NEGATIVE, 6.0, by_row, 0.4)
    for i in range(table.evals):
        t = float(table.t[i])
        guider.set_state(int(table.step_of[i]), table.steps, torch.tensor(t))
        predictions = [torch.from_numpy(network(X, t, embeds)) for embeds in (EMBEDS, NEGATIVE)]
        expected = guider.forward(*predictions[: guider.num_conditions]).pred.numpy()
        np.testing.assert_allclose(model(X, t, i), expected, rtol=1e-5, atol=1e-5)
        assert counting.sizes[-1] == len(X) * guider.num_conditions


def plus_plus(name, scheduler, table, scale, n):
    """The paper's way: x0 from the guided prediction, the noise from the one without."""
    x = X * np.float32(table.init_sigma)
    for i in range(n):
        t = float(table.t[i])
        alpha, sigma = table.alpha[i], table.sigma[i]
        with_prompt, without = (network(x * np.float32(table.c_in[i]), t, each) for each in (EMBEDS, NEGATIVE))
        guided = without + scale * (with_prompt - without)
        x0, x0_without = ((x - sigma * eps) / alpha for eps in (guided, without))
        if scheduler.config["prediction_type"] == "v_prediction":
            a, s = np.array([alpha, sigma]) / np.hypot(alpha, sigma)  # in the convention of variance 1
            x0, x0_without = (a * x / np.hypot(alpha, sigma) - s * v for v in (guided, without))
        eps = (x - alpha * x0_without) / sigma
        to = scheduler.grid(n).to[i]
        if name == "EulerAncestralDiscreteScheduler":
            down = to.sigma**2 / sigma
            x = x0 + down * eps + np.sqrt(max(to.sigma**2 - down**2, 0)) * NOISE[i]
        else:
            x = to.alpha * x0 + to.sigma * eps
        x = x.astype(np.float32)
    return x


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"])
def test_cfg_plus_plus_is_the_papers_step(name, prediction):
    scheduler = SCHEDULERS[name].from_config(SD | {"prediction_type": prediction})
    table = scheduler.table(8)
    model = guide(network, EMBEDS, NEGATIVE, 0.6, factors(table, (0.0, 1.0), True))
    *_, last = denoise(table, model, start(table, X), lambda i: NOISE[i])
    expected = plus_plus(name, scheduler, table, 0.6, 8)
    np.testing.assert_allclose(last.latents, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    *_, plain = denoise(table, guide(network, EMBEDS, NEGATIVE, 0.6), start(table, X), lambda i: NOISE[i])
    assert np.abs(plain.latents - expected).max() > 0.01


def test_cfg_plus_plus_by_the_parts_of_diffusers():
    """DDIM's x0 of the guided prediction, and diffusers' add_noise with the other one."""
    reference = diffusers.DDIMScheduler.from_config(SD)
    reference.set_timesteps(10)
    x = torch.from_numpy(X)
    for t in reference.timesteps:
        with_prompt, without = (torch.from_numpy(network(x.numpy(), float(t), each)) for each in (EMBEDS, NEGATIVE))
        x0 = reference.step(without + 0.8 * (with_prompt - without), t, x).pred_original_sample
        before = t - 100
        x = reference.add_noise(x0, without, before[None]) if before >= 0 else x0  # set_alpha_to_one
    table = SCHEDULERS["DDIMScheduler"].from_config(SD).table(10)
    model = guide(network, EMBEDS, NEGATIVE, 0.8, factors(table, (0.0, 1.0), True))
    *_, last = denoise(table, model, start(table, X), lambda i: NOISE[i])
    np.testing.assert_allclose(last.latents, x.numpy(), rtol=0, atol=2e-5)


def test_cfg_plus_plus_says_which_samplers_it_needs():
    def by_row(name, **config):
        return factors(SCHEDULERS[name].from_config(SD | config).table(4), (0.0, 1.0), True)

    with pytest.raises(InvalidArgument, match=r"such as ddim, euler or euler-a; this one remembers"):
        by_row("LMSDiscreteScheduler")
    with pytest.raises(InvalidArgument, match="clip_sample"):
        by_row("DDIMScheduler", clip_sample=True)
    assert by_row("DDIMScheduler")[-1] == pytest.approx(1)  # the last step ends without noise: it is plain guidance


def test_every_kind_of_guidance_in_one_run():
    """CFG++ within an interval, with the batches it makes."""
    table = SCHEDULERS["EulerDiscreteScheduler"].from_config(SD).table(10)
    counting = Counting()
    model = guide(counting, EMBEDS, NEGATIVE, 0.6, factors(table, (0.2, 0.7), True))
    assert len(list(denoise(table, model, start(table, X), lambda i: NOISE[i]))) == 10
    assert counting.sizes == [2] * 2 + [4] * 5 + [2] * 3
