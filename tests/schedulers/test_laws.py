"""Laws 1 and 2: what a sampler must do whatever the reference does.

The first runs each table on an exactly known world, the second measures how its error falls with the step.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from itertools import product
from typing import Any, get_args

import numpy as np
import pytest

from diffrt.schedulers import SCHEDULERS, Grid, Scheduler, Table, apply_row, init_slots
from diffrt.schedulers.grid import Node
from tests.schedulers.cases import case_of
from tests.schedulers.cases.consistency import RESAMPLES

# Steps that end where the next begins (faults 1 and 2 of test_golden), unclipped, and no jump to zero noise.
CONFIG = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "timestep_spacing": "leading",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "final_sigmas_type": "sigma_min",
}

CASES = [
    pytest.param(name, options, order, id="-".join([name, *map(str, options.values())]))
    for name in SCHEDULERS
    for options, order in case_of(name).variants
]


def make(name: str, options: dict[str, Any], **more: Any) -> Scheduler:
    keys = {f.name for f in fields(SCHEDULERS[name])}
    config = CONFIG | dict(case_of(name).config) | options | more
    if more.get("prediction_type") == "flow_prediction" and "use_flow_sigmas" in keys:
        config |= {"use_flow_sigmas": True, "use_exponential_sigmas": False}
    return SCHEDULERS[name].from_config({key: value for key, value in config.items() if key in keys})


def run(scheduler: Scheduler, n: int, eta: float | None, skip: int = 0) -> tuple[Grid, Table]:
    options = case_of(type(scheduler).__name__).law_options
    return scheduler.grid(n, **options).after(skip), scheduler.table(n, eta=eta, skip=skip, **options)


# --- law 1: transport ------------------------------------------------------------------------------------


Kind = str | Callable[..., Any]  # a prediction type, or what a case says that its network puts out


def spoken(kind: Kind, x0: Any, eps: Any, alpha: float, sigma: float) -> Any:
    """What a network of this prediction type says of x = alpha x0 + sigma eps."""
    if callable(kind):
        return kind(x0, eps, alpha, sigma)
    a, s = np.array([alpha, sigma]) / np.hypot(alpha, sigma)
    sine = np.sqrt(max(1 - alpha**2, 0))
    return {
        "epsilon": eps,
        "sample": x0,
        "v_prediction": a * eps - s * x0,
        "flow_prediction": eps - x0,
        "inverted flow": x0 - eps,
        "score": -eps / max(sigma, 1e-12),
        "trigflow": alpha * sigma / max(sine, 1e-12) * eps - sine * x0,
    }[kind]


def answer(table: Table, i: int, kind: Kind, x: Any, x0: Any, eps: Any) -> Any:
    """What a network says at a row; one of the kind "own" says x0 in the table's own terms."""
    if kind == "own":
        return (x0 - table.px0[i] * x) / table.qx0[i]
    return spoken(kind, x0, eps, table.alpha[i], table.sigma[i])


def unit_noise(table: Table) -> np.ndarray:  # [E, K]
    """The noise of every row as unit vectors: independent ones, or what increments of one Brownian path make of it."""
    if table.between is None:
        return np.eye(table.evals)
    ends = np.unique(table.between)
    inside = (table.between.min(1)[:, None] <= ends[:-1]) & (ends[1:] <= table.between.max(1)[:, None])
    return inside * np.sqrt(np.diff(ends)) / np.sqrt(np.abs(np.diff(table.between)))


def transported(table: Table, kind: Kind, start: tuple[float, float]) -> np.ndarray:
    """x after the last evaluation, as coefficients of (x0, eps, noise...), when the model knows x0 and tells the exact
    noise in x."""
    noise, calls = unit_noise(table), table.calls
    x0 = np.eye(2 + noise.shape[1])[0]
    x = np.zeros_like(x0)
    x[:2] = start
    slots = init_slots(table, x)
    for i, (alpha, sigma) in enumerate(zip(table.alpha, table.sigma, strict=True)):
        m = None
        if calls[i]:
            m = answer(table, i, kind, slots[0], x0, (slots[0] - alpha * x0) / sigma)
        slots = apply_row(table, i, slots, m, np.append([0, 0], noise[i]))
    return slots[0]


def is_random(grid: Grid, table: Table, kind: Kind) -> bool:
    """Whether fresh noise reaches the end; a table may draw more of it, to stay in step with the reference."""
    return bool(np.any(transported(table, kind, (grid.at[0].alpha, grid.at[0].sigma))[2:]))


def kinds_of(name: str, options: Mapping[str, Any]) -> Sequence[str]:
    """The prediction types of a class; one that has no such key predicts noise unless its case says otherwise."""
    if options.get("invert_sigmas"):
        return ("inverted flow",)
    types = [f.type for f in fields(SCHEDULERS[name]) if f.name == "prediction_type"]
    return case_of(name).transported or (get_args(types[0]) if types else ("epsilon",))


def network_of(name: str, kind: str) -> Kind:
    says = case_of(name).says
    return partial(says, kind) if says else kind


@pytest.mark.parametrize(("name", "options", "order"), CASES)
def test_transport(name: str, options: dict[str, Any], order: int) -> None:
    """Law 1: alpha x0 + sigma eps is carried exactly to the last node; with fresh noise, its mean and variance."""
    if "transport" in case_of(name).exempt:
        pytest.skip(case_of(name).exempt["transport"])
    if options.get("algorithm_type") in ("sde-dpmsolver", "noise_prediction"):
        pytest.skip("its noise is that of a first-order expansion, wrong by O(h^2)")
    takes_eta = "eta" in SCHEDULERS[name].options()
    steps = [n for n in (4, 20, 50) if n in case_of(name).steps] or case_of(name).steps
    for kind, n, eta in product(kinds_of(name, options), steps, (0.0, 0.6) if takes_eta else (None,)):
        if kind == "flow_prediction" and options.get("predict_x0") is False:
            continue  # refused
        scheduler, skip = make(name, options, prediction_type=kind), case_of(name).law_skip
        grid, table = run(scheduler, n, eta, skip)
        x = transported(table, network_of(name, kind), (grid.at[0].alpha, grid.at[0].sigma))
        end = grid.to[-1]
        assert abs(x[0] - end.alpha) < 1e-12
        assert abs(np.linalg.norm(x[1:]) - end.sigma) < 1e-12
        if not np.any(x[2:]):
            assert abs(x[1] - end.sigma) < 1e-12


# --- law 2: order ----------------------------------------------------------------------------------------

# The data are N(MEAN, STD^2): the noise in x is known, and so is the solution of the ODE, x = alpha MEAN + k s with
# s^2 = alpha^2 STD^2 + sigma^2 and k constant.
MEAN, STD = 0.7, 0.4


def spread(alpha: Any, sigma: Any) -> Any:
    return np.hypot(alpha * STD, sigma)


def gaussian_model(x: Any, alpha: float, sigma: float, kind: Kind) -> Any:
    eps = sigma * (x - alpha * MEAN) / spread(alpha, sigma) ** 2
    x0 = MEAN + alpha * STD**2 * (x - alpha * MEAN) / spread(alpha, sigma) ** 2
    return spoken(kind, x0, eps, alpha, sigma)


def gaussian_at(table: Table, kind: Kind, i: int, x: Any) -> Any:
    return gaussian_model(x, table.alpha[i], table.sigma[i], kind)


def consistent_at(table: Table, kind: Kind, end: Node, i: int, x: Any) -> Any:
    """Tells where the solution through x ends, as a consistency model does; gaussian_model tells the data's mean."""
    alpha, sigma = table.alpha[i], table.sigma[i]
    x0 = end.alpha * MEAN + spread(end.alpha, end.sigma) * (x - alpha * MEAN) / spread(alpha, sigma)
    return answer(table, i, kind, x, x0, (x - alpha * x0) / sigma)


def solution(node: Node) -> float:
    return node.alpha * MEAN + spread(node.alpha, node.sigma)


def step_errors(grid: Grid, table: Table, kind: Kind, group: int = 1, slot: str = "x") -> np.ndarray:  # [steps / group]
    """The error each step adds, or each `group` of steps: it starts on the solution, and remembers outputs that were
    made on it. With slot "ahead", the error of the step before, once it is corrected."""
    slots, newest = init_slots(table, np.zeros(1)), corrections(table, kind) if "ahead" in table.slots else None
    errors = np.zeros(table.steps)
    for i, k in enumerate(table.step_of):
        at, to = grid.at[k], grid.to[k]
        if (i == 0 or table.step_of[i - 1] != k) and k % group == 0:
            slots = [np.array([solution(at)]), *slots[1:]]
        m = gaussian_model(slots[0], table.alpha[i], table.sigma[i], kind)
        if newest is not None:
            correction = newest[i] * (table.p[i] * slots[0] + table.q[i] * m)
            corrected = slots[1] + correction
            slots = [slots[0], solution(at) - correction, *slots[2:]]
        slots = apply_row(table, i, slots, m, np.zeros(1))
        x, node = (slots[0], to) if slot == "x" else (corrected, at)
        errors[k] = abs(x[0] - solution(node)) / np.hypot(node.alpha, node.sigma)
    return errors[group - 1 :: group]


def corrections(table: Table, kind: Kind) -> np.ndarray:  # [E]
    """How much of its y a row adds to the slot "ahead" for a corrected x: what that lacks when the network tells the
    truth, in which x is alpha x0 + sigma eps."""
    level, x0 = np.stack([table.alpha, table.sigma], axis=1), np.array([1.0, 0.0])
    slots, lacks = init_slots(table, level[0]), np.zeros(table.evals)
    for i in range(table.evals):
        lacks[i] = (level[i] - slots[1]).sum() if i else 0
        m = answer(table, i, kind, slots[0], x0, np.array([0.0, 1.0]))
        slots = apply_row(table, i, slots, m, np.zeros(2))
    return lacks


def slope(errors: list[float], steps: list[int]) -> float:
    return float(np.polyfit(np.log(steps), -np.log(errors), 1)[0])


def test_order_of_both_pndm_starts() -> None:
    for skip in (True, False):
        scheduler = make("PNDMScheduler", {"skip_prk_steps": skip})
        errors = [step_errors(scheduler.grid(n), scheduler.table(n), "epsilon")[:3].max() for n in (50, 125, 250)]
        assert slope(errors, [50, 125, 250]) > 2.8


def law_error(grid: Grid, table: Table, tells: Callable[[int, Any], Any]) -> float:
    """How far the distribution of x at the end is from the data's: the table is linear and so is the model, so the
    mean and what every draw adds to the slots are carried along exactly. tells(row, x) is the model."""
    noise, calls = unit_noise(table), table.calls
    # Columns of every slot: its mean, what the initial noise adds, then each draw.
    x = np.zeros(2 + noise.shape[1])
    x[:2] = grid.at[0].alpha * MEAN, spread(grid.at[0].alpha, grid.at[0].sigma)
    slots = init_slots(table, x)
    for i in range(table.evals):
        m = None
        if calls[i]:
            constant = tells(i, 0.0)
            m = tells(i, slots[0]) - constant
            m[0] += constant
        slots = apply_row(table, i, slots, m, np.append([0, 0], noise[i]))
    end = grid.to[-1]
    deviation = np.linalg.norm(slots[0][1:]) / spread(end.alpha, end.sigma) - 1
    return abs(float(deviation)) + abs(float(slots[0][0] - end.alpha * MEAN)) / STD


@pytest.mark.parametrize(("name", "options", "order"), CASES)
def test_order(name: str, options: dict[str, Any], order: int) -> None:
    """Law 2: a step of a deterministic method of order p errs by h^(p + 1). A method with fresh noise is tested in
    distribution: it reaches the data's with at least order 1."""
    if "order" in case_of(name).exempt:
        pytest.skip(case_of(name).exempt["order"])
    scheduler = make(name, options, prediction_type=kinds_of(name, options)[0])
    kind = network_of(name, kinds_of(name, options)[0])
    eta = 1.0 if "eta" in scheduler.options() else None
    counts, case = list(case_of(name).law_steps), case_of(name)
    runs = [run(scheduler, n, eta and 0.0) for n in counts]
    if not is_random(*runs[0], kind):
        group = getattr(scheduler, case.group) if case.group else 1
        orders = {"x": order} | ({"ahead": case.corrector(scheduler.config)} if case.corrector else {})
        for slot, expected in orders.items():
            errors = []
            for grid, table in runs:
                each = step_errors(grid, table, kind, group, slot)
                errors.append(each[len(each) // 4 : len(each) * 3 // 4].max())
            assert slope(errors, counts) == pytest.approx(expected + 1, abs=0.35), slot
    if is_random(*run(scheduler, counts[0], eta), kind) and "noisy order" not in case.exempt:
        counts = [*counts[1:], 2 * counts[-1] + 1]
        errors = []
        for n in counts:
            grid, table = run(scheduler, n, eta)
            errors.append(law_error(grid, table, partial(gaussian_at, table, kind)))
        if case.wrong(options):
            assert errors[-1] > 1
        else:
            assert slope(errors, counts) > 0.7
            assert errors[-1] < 0.03


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if case_of(name).exempt.get("order") is RESAMPLES])
def test_consistency(name: str) -> None:
    """What holds in place of an order: with a perfect consistency model any number of steps gives the data's law."""
    for kind, n in product(kinds_of(name, {}), case_of(name).steps):
        scheduler = make(name, {}, prediction_type=kind)
        grid, table = scheduler.grid(n), scheduler.table(n)
        assert law_error(grid, table, partial(consistent_at, table, kind, grid.to[-1])) < 1e-12
