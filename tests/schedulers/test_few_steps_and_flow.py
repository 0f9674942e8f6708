"""What the classes for flow, consistency and score models have beyond what every class has."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from diffrt.errors import InvalidArgument
from diffrt.schedulers import SCHEDULERS, apply_row, from_config, init_slots
from tests.schedulers.cases import case_of
from tests.schedulers.reference import Reference, draws, network, reference_scheduler, start_noise, toy_model

TOLERANCE = 2e-5


def close(ours: np.ndarray, theirs: torch.Tensor) -> bool:
    return np.abs(ours - theirs.numpy()).max() < TOLERANCE * theirs.abs().max()


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("LCMScheduler", 1),
        ("TCDScheduler", 1),
        ("CMStochasticIterativeScheduler", 1),
        ("SCMScheduler", 1),
        ("FlowMatchEulerDiscreteScheduler", 1),
        ("FlowMatchHeunDiscreteScheduler", 2),
        ("FlowMatchLCMScheduler", 1),
        ("FlowMapEulerDiscreteScheduler", 1),
        ("LTXEulerAncestralRFScheduler", 1),
    ],
)
def test_a_run_that_starts_later(name: str, order: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As diffusers' image-to-image pipelines do: set_begin_index, and the timesteps from there on."""
    n, skip, scheduler = 6, 2, reference_scheduler(name, {})
    if prepare := case_of(name).prepare:
        prepare(scheduler, n, {})
    else:
        scheduler.set_timesteps(n)
    scheduler.set_begin_index(skip * order)
    reference = Reference(name, scheduler, {}, "float32")
    if hasattr(__import__(type(scheduler).__module__, fromlist=["x"]), "randn_tensor"):
        monkeypatch.setattr(f"{type(scheduler).__module__}.randn_tensor", reference.randn)
    reference.x = torch.from_numpy(start_noise())
    table = SCHEDULERS[name]().table(n, skip=skip)
    slots = init_slots(table, start_noise())
    for i, t in enumerate(scheduler.timesteps[skip * order :][: table.evals]):
        assert float(t) == pytest.approx(table.t[i], rel=1e-6)
        scaled = scheduler.scale_model_input(reference.x, t) if hasattr(scheduler, "scale_model_input") else reference.x
        reference.done(scheduler.step(reference.model(scaled, t), t, reference.x).prev_sample)
        m = network(name, slots[0] * np.float32(table.c_in[i]), table.t[i])
        slots = apply_row(table, i, slots, m, reference.run.noise[i][-1] if table.noisy[i] else None)
        assert close(slots[0], reference.x)


@pytest.mark.parametrize("tokens", [100, 256, 1024, 4096, 9000])
def test_mu(tokens: int) -> None:
    for config in ({}, {"base_shift": 0.3, "max_shift": 2.0, "base_image_seq_len": 64, "max_image_seq_len": 1024}):
        ours = from_config({**config, "use_dynamic_shifting": True}, "FlowMatchEulerDiscreteScheduler")
        seq = (ours.config[key] for key in ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift"))
        assert ours.picture_options(tokens) == {"mu": pytest.approx(calculate_shift(tokens, *seq), rel=1e-12)}


@pytest.mark.parametrize("name", [name for name, cls in SCHEDULERS.items() if "mu" in cls.options()])
def test_every_class_that_takes_mu_is_told_it(name: str) -> None:
    """Also of keys that it only carries, from the flow scheduler that it was switched from."""
    flow = {"use_dynamic_shifting": True, "base_shift": 0.3, "max_shift": 2.0, "base_image_seq_len": 64}
    expected = calculate_shift(1000, 64, 4096, 0.3, 2.0)
    scheduler = from_config(from_config(flow, "flow").config, name)
    shifts = scheduler.config.get("use_dynamic_shifting")
    options = scheduler.picture_options(1000)
    assert options == ({"mu": pytest.approx(expected, rel=1e-12)} if shifts else {})
    flows = (
        {"use_flow_sigmas": True, "prediction_type": "flow_prediction"} if "use_flow_sigmas" in scheduler.config else {}
    )
    from_config({**scheduler.config, **flows}, name).table(5, **options)
    assert from_config({}, name).picture_options(1000) == {}


@pytest.mark.parametrize("config", [{"shift": 3.0}, {"use_dynamic_shifting": True, "shift_terminal": 0.1}])
def test_ltx_shapes_its_levels_by_the_keys_of_flow_match_euler(config: dict[str, Any]) -> None:
    mu = 1.2 if "use_dynamic_shifting" in config else None
    scheduler = reference_scheduler("LTXEulerAncestralRFScheduler", config)
    scheduler.set_timesteps(7, mu=mu)
    stepper = from_config(config, "LTXEulerAncestralRFScheduler").stepper(7, mu=mu)
    np.testing.assert_allclose(stepper.sigmas, scheduler.sigmas.numpy(), rtol=1e-6)
    np.testing.assert_allclose(stepper.timesteps, scheduler.timesteps.numpy(), rtol=1e-6)


def test_whole_times_of_a_flow_have_their_noise() -> None:
    """Fault D6, where the reference fails on training times that float32 does not hold."""
    x, z = start_noise(), draws(1)[0]
    scheduler = reference_scheduler("FlowMatchEulerDiscreteScheduler", {})
    with pytest.raises(IndexError):
        scheduler.scale_noise(torch.from_numpy(x), torch.tensor([254]), torch.from_numpy(z))
    ours = from_config({}, "FlowMatchEulerDiscreteScheduler").add_noise(x, z, 254)
    np.testing.assert_allclose(ours, 0.746 * x + 0.254 * z, rtol=1e-5, atol=1e-6)


def test_ipndm_with_levels_of_its_own() -> None:
    levels = [1.0, 0.9, 0.6, 0.4, 0.2, 0.0]
    scheduler = reference_scheduler("IPNDMScheduler", {"trained_betas": levels})
    scheduler.set_timesteps(5)
    ours = from_config({"trained_betas": levels}, "IPNDMScheduler")
    table, x = ours.table(5), torch.from_numpy(start_noise())
    np.testing.assert_allclose(table.t, scheduler.timesteps, rtol=1e-6)
    slots = init_slots(table, start_noise())
    for i, t in enumerate(scheduler.timesteps):
        x = scheduler.step(torch.from_numpy(toy_model(x.numpy(), float(t))), t, x).prev_sample
        slots = apply_row(table, i, slots, toy_model(slots[0], float(t)))
        assert close(slots[0], x)
    with pytest.raises(InvalidArgument, match="trained_betas have 5"):
        ours.table(6)


def test_langevin_correction(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole loop of diffusers' ScoreSdeVePipeline, with two corrections before each prediction."""
    name = "ScoreSdeVeScheduler"
    ours, scheduler = SCHEDULERS[name](), reference_scheduler(name, {})
    scheduler.set_timesteps(6)
    scheduler.set_sigmas(6)
    table, noise = ours.table(6), iter(draws(18))
    slots = init_slots(table, start_noise() * np.float32(table.init_sigma))
    reference = torch.from_numpy(slots[0])
    z: np.ndarray
    monkeypatch.setattr(f"{type(scheduler).__module__}.randn_tensor", lambda *_, **__: torch.from_numpy(z))
    for i, t in enumerate(scheduler.timesteps):
        told = float(scheduler.sigmas[i])
        for _ in range(2):
            z = next(noise)
            score = torch.from_numpy(network(name, reference.numpy(), told))
            reference = scheduler.step_correct(score, reference).prev_sample
            slots = (ours.correct(slots[0], network(name, slots[0], table.t[i]), z),)  # type: ignore[attr-defined]
            assert slots[0].dtype == np.float32
            assert close(slots[0], reference)
        z = next(noise)
        score = torch.from_numpy(network(name, reference.numpy(), told))
        reference, mean = scheduler.step_pred(score, t, reference, return_dict=False)
        slots = apply_row(table, i, slots, network(name, slots[0], table.t[i]), z)
        assert close(slots[0], mean if i == 5 else reference)
    original = start_noise()
    theirs = scheduler.add_noise(torch.from_numpy(original), torch.from_numpy(z), torch.tensor([4, 1]))
    assert close(ours.add_noise(original, z, scheduler.discrete_sigmas[[4, 1]].numpy()), theirs)
