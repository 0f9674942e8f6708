"""The table, its NumPy interpreter and the stepping shell."""

import numpy as np
import pytest

from diffrt.errors import InvalidArgument
from diffrt.schedulers import SCHEDULERS, apply_row, denoised, from_config, init_slots
from diffrt.schedulers.lms import adams
from diffrt.tables.table import Table, Threshold
from tests.schedulers.cases import case_of
from tests.schedulers.reference import SD_CONFIG, draws, fitting, network, run_table, start_noise, toy_model

each = pytest.mark.parametrize("name", SCHEDULERS)


def eta_of(name: str) -> float:
    return 0.5 if "eta" in SCHEDULERS[name].options() else 0.0


@each
def test_shapes(name: str) -> None:
    n = case_of(name).count(10)
    table = SCHEDULERS[name]().table(n)
    e, s = table.evals, len(table.slots)
    assert table.steps == n
    assert table.slots[0] == "x"
    assert {a.shape for a in (table.t, table.c_in, table.p, table.q, table.px0, table.qx0)} == {(e,)}
    assert table.W.shape == (e, s, s + 3)
    assert table.W.dtype == np.float64
    assert table.noisy.dtype == bool
    assert np.array_equal(np.unique(table.step_of), np.arange(n))
    assert not table.W.flags.writeable


@each
def test_interpreter_is_the_rule(name: str) -> None:
    """apply_row against the formula in the file's head, written densely."""
    scheduler = SCHEDULERS[name].from_config(fitting(name, SD_CONFIG | {"clip_denoised": False}))
    table = scheduler.table(case_of(name).count(7), eta=eta_of(name))
    rng = np.random.default_rng(0)
    for i in range(table.evals):
        slots = rng.standard_normal((len(table.slots), 2, 3, 4))
        m, z = rng.standard_normal((2, 2, 3, 4))
        y = table.p[i] * slots[0] + table.q[i] * m
        expected = np.tensordot(table.W[i], np.stack([*slots, y, m, z]), 1)
        np.testing.assert_allclose(apply_row(table, i, slots, m, z), expected, rtol=1e-12, atol=1e-11)
        half = [a.astype(np.float32) for a in (slots, m, z)]
        narrow = np.stack(apply_row(table, i, *half))
        assert narrow.dtype == np.float32
        np.testing.assert_allclose(narrow, expected, atol=1e-5 * np.abs(expected).max())


@each
def test_a_picture_does_not_depend_on_its_batch(name: str) -> None:
    table = SCHEDULERS[name]().table(case_of(name).count(6), eta=eta_of(name))
    x, m, z = np.random.default_rng(0).standard_normal((3, 5, 3, 7, 9), np.float32)
    for i in range(table.evals):
        together = apply_row(table, i, init_slots(table, x), m, z)
        alone = apply_row(table, i, init_slots(table, x[3:4]), m[3:4], z[3:4])
        assert all(np.array_equal(a[3:4], b) for a, b in zip(together, alone, strict=True))


@each
def test_stepper_is_the_table(name: str) -> None:
    """diffusers' loop idiom gives the samples of the interpreter, bit for bit."""
    scheduler, eta, n = SCHEDULERS[name].from_config(fitting(name, SD_CONFIG)), eta_of(name), case_of(name).count(8)
    table = scheduler.table(n, eta=eta)
    stepper = scheduler.stepper(n, eta=eta)
    x = start_noise() * np.float32(stepper.init_noise_sigma)
    slots = init_slots(table, x)
    noise = draws(table.evals)
    assert len(stepper.timesteps) == table.evals
    assert len(stepper.sigmas) == n + 1
    for i, t in enumerate(stepper.timesteps):
        m = toy_model(stepper.scale_model_input(x, t), float(t))
        out = stepper.step(m, t, x, noise[i] if table.noisy[i] else None)
        assert np.array_equal(out.pred_original_sample, denoised(table, i, slots, m) if table.calls[i] else None)
        slots = apply_row(table, i, slots, m, noise[i])
        x = out.prev_sample
        assert np.array_equal(x, slots[0])
    with pytest.raises(InvalidArgument, match="make a new stepper"):
        stepper.step(m, t, x)


def test_stepper_takes_an_edited_sample_and_refuses_a_wrong_time() -> None:
    stepper = from_config(SD_CONFIG, "euler").stepper(3)
    x = np.ones((1, 2), np.float32)
    first = stepper.step(x, stepper.timesteps[0], x).prev_sample
    with pytest.raises(InvalidArgument, match="is next"):
        stepper.step(x, stepper.timesteps[0], first)
    edited = stepper.step(0 * x, stepper.timesteps[1], 0 * x).prev_sample
    assert np.array_equal(edited, 0 * x)


@each
def test_previews_end_at_the_sample(name: str) -> None:
    """At the last evaluation of a run to zero noise, the preview is the sample."""
    if "previews" in case_of(name).exempt:
        pytest.skip(case_of(name).exempt["previews"])
    config = fitting(name, SD_CONFIG) | {"set_alpha_to_one": True, "skip_prk_steps": False, "steps_offset": 0}
    scheduler = SCHEDULERS[name].from_config(config)
    table = scheduler.table(case_of(name).count(20))
    slots = init_slots(table, start_noise() * np.float32(table.init_sigma))
    previews = []
    for i in range(table.evals):
        m = network(name, slots[0] * np.float32(table.c_in[i]), float(table.t[i]))
        previews.append(denoised(table, i, slots, m))
        slots = apply_row(table, i, slots, m, np.zeros_like(m))
    assert np.abs(previews[-1] - slots[0]).max() < 0.05 * np.abs(slots[0]).max()
    assert np.abs(previews[0] - slots[0]).max() > 0.05 * np.abs(slots[0]).max()


def test_noise_is_asked_for_only_where_it_is_used() -> None:
    table = from_config(SD_CONFIG, "euler-a").table(5)
    assert table.noisy.tolist() == [True] * 4 + [False]
    slots = init_slots(table, np.ones((1, 2), np.float32))
    with pytest.raises(InvalidArgument, match="adds fresh noise"):
        apply_row(table, 0, slots, slots[0])
    apply_row(table, 4, slots, slots[0])


def shaping_table(clip: float | None = None, threshold: Threshold | None = None) -> Table:
    one, nil, w = np.ones(1), np.zeros(1), np.array([[[0.0, 1.0, 0.0, 0.0]]])
    return Table(("x",), nil, one, one, one, one, nil, one, nil, w, np.zeros(1, int), clip=clip, threshold=threshold)


def test_clip_and_threshold_act_per_image() -> None:
    x = np.stack([np.linspace(-3, 3, 61), np.linspace(-0.5, 0.5, 61)])[None].astype(np.float32).swapaxes(0, 1)
    slots = x[None]
    clipped = apply_row(shaping_table(clip=1.5), 0, slots, 0 * x)[0]
    assert np.array_equal(clipped, np.clip(x, -1.5, 1.5))
    out = apply_row(shaping_table(threshold=Threshold(0.9, 10.0)), 0, slots, 0 * x)[0]
    s = np.quantile(np.abs(x[0]), 0.9)
    np.testing.assert_allclose(out[0], np.clip(x[0], -s, s) / s, rtol=1e-6)
    assert np.array_equal(out[1], x[1])  # its quantile is below 1, so nothing is scaled up
    capped = apply_row(shaping_table(threshold=Threshold(0.9, 1.2)), 0, slots, 0 * x)[0]
    np.testing.assert_allclose(capped[0], np.clip(x[0], -1.2, 1.2) / 1.2, rtol=1e-6)


def test_a_table_refuses_numbers_that_are_not_finite() -> None:
    one = np.ones(1)
    with pytest.raises(InvalidArgument, match="not finite"):
        Table(("x",), one, one, one, one, np.array([np.inf]), one, one, one, np.zeros((1, 1, 4)), np.zeros(1, int))


@each
def test_a_table_can_be_read(name: str) -> None:
    n = case_of(name).count(5)
    table = SCHEDULERS[name]().table(n)
    lines = str(table).splitlines()
    assert len(lines) == 1 + table.evals
    assert f"{n} steps, {table.evals} evaluations" in lines[0]
    for line, calls in zip(lines[1:], table.calls, strict=True):
        assert "x = " in line
        assert ("m = model(" in line) == calls


def test_reading_one_line() -> None:
    table = from_config({"clip_sample": False}, "ddim").table(2)
    assert str(table).splitlines()[1].strip() == (
        "0  m = model(1 x, 500); y = 3.5853 x - 3.443 m; x = 0.99995 y + 0.010001 m"
    )


def test_pndm_rows() -> None:
    """Evaluations per step, and small step counts as the reference has them."""
    plms = from_config({"skip_prk_steps": True}, "pndm")
    assert plms.table(6).step_of.tolist() == [0, 0, 1, 2, 3, 4, 5]
    assert [plms.table(n).evals for n in (1, 2, 3)] == [1, 3, 4]
    prk = from_config({}, "pndm")
    assert prk.table(6).step_of.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3, 4, 5]
    assert prk.table(4).evals == 13


def test_adams_weights_integrate_cubics() -> None:
    nodes, to = np.array([3.0, 4.5, 7.0, 14.0]), 1.25
    weights = adams(nodes, to)
    for power in range(4):
        exact = (to ** (power + 1) - nodes[0] ** (power + 1)) / (power + 1)
        assert np.dot(weights, nodes**power) == pytest.approx(exact, rel=1e-13)


def test_float32_and_float64_runs_agree() -> None:
    for name in SCHEDULERS:
        config, n = fitting(name, SD_CONFIG), case_of(name).count(20)
        narrow, wide = run_table(name, config, n), run_table(name, config, n, dtype="float64")
        scale = np.abs(wide.samples[-1]).max()
        np.testing.assert_allclose(narrow.samples[-1], wide.samples[-1], atol=1e-4 * scale)
