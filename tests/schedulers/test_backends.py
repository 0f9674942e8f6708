"""Law 4: the three interpreters of a table are one. NumPy's is compared with diffrt/flax/sampling.py and
exporters/loop.py over the registry, every class with whatever shaping, noise and learned variance it has.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from diffrt.errors import ExportError, InvalidArgument
from diffrt.flax import sampling
from diffrt.schedulers import SCHEDULERS, Table, Threshold, apply_row, init_slots
from diffrt.tables.arrays import arrays
from exporters.loop import loop
from tests.schedulers.cases import case_of
from tests.schedulers.reference import SD_CONFIG, SHAPE, start_noise

# Rows and slots are filled up to these: all tables then run through the same two compiled functions.
ROWS, SLOTS = 64, 8

TOY = """
<ir_version: 10, opset_import: ["": 23]>
toy (float[B,3,h,w] x, float[B] t, float scale) => (float[B,C,h,w] m) <float[1] weight = {{0.8}}> {{
    begin = Constant<value_ints = [-1]>()
    end = Constant<value_ints = [9223372036854775807]>()
    zero = Constant<value_ints = [0]>()
    axis = Constant<value_ints = [3]>()
    last = Slice(x, begin, end, axis)
    others = Slice(x, zero, begin, axis)
    rolled = Concat<axis = 3>(last, others)
    near = Constant<value_float = 0.3>()
    period = Constant<value_float = 170.0>()
    axes = Constant<value_ints = [1, 2, 3]>()
    turned = Div(t, period)
    phase = Cos(turned)
    W = Unsqueeze(phase, axes)
    own = Mul(x, weight)
    beside = Mul(rolled, near)
    both = Add(own, beside)
    inside = Add(both, W)
    bounded = Tanh(inside)
    {last}
}}"""  # `W` is a name that the loop uses too
ONE = "m = Mul(bounded, scale)"
TWO = """one = Mul(bounded, scale)
    sum = Add(one, x)
    wave = Cos(sum)
    lift = Constant<value_float = 1.5>()
    two = Add(wave, lift)
    m = Concat<axis = 1>(one, two)"""


def toy(outputs: int = 1) -> ir.Model:
    """numpy_toy as a graph, with a weight and an input of its own."""
    proto = onnx.parser.parse_model(TOY.format(last=ONE if outputs == 1 else TWO))
    return ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(proto, strict_mode=True))


@cache
def onnx_session(threshold: bool, spread: Any) -> ort.InferenceSession:
    proto = ir.serde.serialize_model(loop(toy(2 if spread else 1), threshold, spread))
    onnx.checker.check_model(proto, full_check=True)
    return ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


def jax_toy(x: jax.Array, t: jax.Array, outputs: int = 1) -> jax.Array:
    m = 1.1 * jnp.tanh(0.8 * x + 0.3 * jnp.roll(x, 1, axis=-1) + jnp.cos(t / 170))
    return m if outputs == 1 else jnp.concatenate([m, jnp.cos(m + x) + 1.5], axis=1)


@cache
def jax_function(spread: Any) -> Any:
    model = partial(jax_toy, outputs=2 if spread else 1)
    return jax.jit(partial(sampling.sample, model, spread=spread))


def numpy_toy(x: np.ndarray, t: float, outputs: int = 1) -> np.ndarray:
    """The tests' toy model, wholly in the dtype of x; what it says of the width of noise may be a variance."""
    m = 1.1 * np.tanh(0.8 * x + 0.3 * np.roll(x, 1, axis=-1) + np.cos(x.dtype.type(t) / 170))
    return m if outputs == 1 else np.concatenate([m, np.cos(m + x) + 1.5], axis=1)


def noise_of(table: Table) -> np.ndarray:
    z = np.zeros((table.evals, *SHAPE), np.float32)
    z[table.noisy] = np.random.default_rng(3).standard_normal((table.noisy.sum(), *SHAPE), np.float32)
    return z


def by_numpy(table: Table, z: np.ndarray) -> np.ndarray:
    """In the dtype of z."""
    slots = init_slots(table, (start_noise() * np.float32(table.init_sigma)).astype(z.dtype))
    for i in range(table.evals):
        m = None
        if table.calls[i]:
            m = numpy_toy(slots[0] * z.dtype.type(table.c_in[i]), float(table.t[i]), 2 if table.spread else 1)
        slots = apply_row(table, i, slots, m, z[i] if table.noisy[i] else None)
    return np.stack(slots)


def by_onnx(table: Table, z: np.ndarray) -> np.ndarray:
    session = onnx_session(table.threshold is not None, table.spread)
    slots = np.stack(init_slots(table, start_noise() * np.float32(table.init_sigma)))
    feeds = arrays(table) | {"slots": slots, "z": z, "scale": np.array(1.1, np.float32)}
    return session.run(None, {i.name: feeds[i.name] for i in session.get_inputs()})[0]


def by_jax(table: Table, z: np.ndarray) -> np.ndarray:
    rows = -(-table.evals // ROWS) * ROWS
    slots = sampling.init_slots(table, start_noise() * np.float32(table.init_sigma), SLOTS)
    z = np.concatenate([z, np.zeros((rows - len(z), *SHAPE), np.float32)])
    return np.asarray(jax_function(table.spread)(arrays(table, rows, SLOTS), slots, z))[: len(table.slots)]


def tables(name: str) -> Iterator[tuple[str, Table]]:
    """As many kinds of tables as a class has: by defaults and Stable Diffusion's config, and with each thing that the
    interpreters do beyond a sum."""
    case, keys = case_of(name), {f.name for f in fields(SCHEDULERS[name])}
    n = max((n for n in case.steps if n <= 10), default=min(case.steps))
    plain = SD_CONFIG | {"clip_sample": False, "thresholding": False}
    configs: dict[str, Mapping[str, Any]] = {"default": {}, "sd": SD_CONFIG}
    if "clip_sample" in keys:
        configs["clip"] = plain | {"clip_sample": True}
    if "thresholding" in keys:
        configs["threshold"] = plain | {"thresholding": True, "sample_max_value": 3.0}
    if "variance_type" in keys:
        configs |= {kind: plain | {"variance_type": kind} for kind in ("learned", "learned_range")}
    for label, config in configs.items():
        for options in case.options:
            try:
                scheduler = SCHEDULERS[name].from_config(config)
                options = options(n, scheduler.config) if callable(options) else options
                yield f"{label} {dict(options)}", scheduler.table(n, **options)
            except InvalidArgument:
                if label == "default" and not options:
                    raise


def apart(ours: np.ndarray, reference: np.ndarray) -> float:
    """The largest difference in any slot, relative to that slot's largest value."""
    return max(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30) for a, b in zip(ours, reference, strict=True))


def assert_agree(table: Table, label: str = "") -> None:
    """As near to one another as float32 is to float64: another order of the same sums rounds as far."""
    z = noise_of(table)
    expected = by_numpy(table, z)
    rounding = apart(expected, by_numpy(table, z.astype(np.float64)))
    assert rounding < 1e-5, label  # the run itself is well-conditioned: a comparison means something
    for run in (by_onnx, by_jax):
        assert apart(run(table, z), expected) < 3 * rounding + 1e-6, f"{run.__name__} {label}"


@pytest.mark.parametrize("name", SCHEDULERS)
def test_backends_agree(name: str) -> None:
    for label, table in tables(name):
        assert_agree(table, label)


def made_up(**changes: Any) -> Table:
    """Five rows of three slots, dense; one calls no model and one is not noisy."""
    rng = np.random.default_rng(5)
    e, s = 5, 3
    W = rng.uniform(-0.6, 0.6, (e, s, s + 3))
    W[2, :, 3:5] = 0
    W[3, :, 5] = 0
    c_in, p, q = rng.uniform(0.5, 1.5, (3, e))
    t, one = np.linspace(900, 10, e), np.ones(e)
    return Table(("x", "a", "b"), t, one, one, c_in, p, q, one, one, W, np.arange(e), init_sigma=2.0, **changes)


SHAPINGS = [{}, {"clip": 0.4}, {"threshold": Threshold(0.83, 1.2)}, {"threshold": Threshold(0.5, 5.0)}]
LOG_STD = np.linspace(-3, 1, 10).reshape(5, 2)
SPREADS = [{}, {"spread": "variance"}, {"spread": "range", "log_std": LOG_STD}]


@pytest.mark.parametrize("spread", SPREADS, ids=["", "variance", "range"])
@pytest.mark.parametrize("shaping", SHAPINGS, ids=["", "clip", "capped", "threshold"])
def test_every_feature(shaping: dict[str, Any], spread: dict[str, Any]) -> None:
    """What no class of the registry may use together."""
    table = made_up(**shaping, **spread)
    assert table.calls.tolist() == [True, True, False, True, True]
    z = noise_of(table)
    if shaping or spread:
        plain = by_numpy(made_up(), z)
        assert apart(by_numpy(table, z), plain) > 1e-3  # the feature acts here
    assert_agree(table)


# --- JAX ---------------------------------------------------------------------------------------------------


def test_another_table_of_the_same_shape_compiles_nothing() -> None:
    traced = []

    def model(x: jax.Array, t: jax.Array) -> jax.Array:
        traced.append(x.shape)
        return jax_toy(x, t)

    function = jax.jit(partial(sampling.sample, model))
    z = np.zeros((ROWS, *SHAPE), np.float32)
    counts = []
    for name, n in (("DDIMScheduler", 5), ("EulerDiscreteScheduler", 7), ("PNDMScheduler", 20)):
        table = SCHEDULERS[name].from_config(SD_CONFIG).table(n)
        slots = sampling.init_slots(table, start_noise() * np.float32(table.init_sigma), SLOTS)
        after = function(arrays(table, ROWS, SLOTS), slots, z)
        assert apart(np.asarray(after)[:1], by_numpy(table, z)[:1]) < 3e-6
        counts.append(len(traced))
    assert counts[0] == counts[1] == counts[2]
    assert function._cache_size() == 1


def test_noise_by_row_or_none_at_all() -> None:
    table = SCHEDULERS["EulerAncestralDiscreteScheduler"].from_config(SD_CONFIG).table(6)
    z, slots = noise_of(table), sampling.init_slots(table, start_noise() * np.float32(table.init_sigma))
    given = sampling.sample(jax_toy, arrays(table), slots, z)
    drawn = sampling.sample(jax_toy, arrays(table), slots, lambda i: jnp.asarray(z)[i])
    assert np.array_equal(given, drawn)
    assert not np.array_equal(given, sampling.sample(jax_toy, arrays(table), slots))


def test_a_segment_goes_on_where_the_last_one_ended() -> None:
    table = SCHEDULERS["LMSDiscreteScheduler"].from_config(SD_CONFIG).table(9)
    slots = sampling.init_slots(table, start_noise() * np.float32(table.init_sigma))
    rows = arrays(table)
    parts = [{k: v if k == "clip" else v[part] for k, v in rows.items()} for part in (slice(4), slice(4, None))]
    at_once, halves = sampling.sample(jax_toy, rows, slots), slots
    for part in parts:
        halves = sampling.sample(jax_toy, part, halves)
    assert np.array_equal(at_once, halves)


# --- ONNX --------------------------------------------------------------------------------------------------


def test_weights_stand_in_the_body() -> None:
    """The model's weights under their names in the body, its further inputs outside, no name twice."""
    looped = loop(toy(), threshold=True)
    assert not looped.graph.initializers
    (scan,) = looped.graph
    body = scan.attributes["body"].as_graph()
    assert list(body.initializers) == ["weight"]
    inputs = [v.name for v in looped.graph.inputs]
    assert inputs == ["slots", "t", "c_in", "p", "q", "W", "z", "clip", "threshold", "scale"]
    names = [v.name for node in body for v in node.outputs] + [v.name for v in body.inputs] + inputs
    assert len(names) == len(set(names))


def test_a_model_that_does_not_fit() -> None:
    model = toy()
    model.graph.inputs[1].shape = ir.Shape([])
    with pytest.raises(ExportError, match=r"x and t \[B\]"):
        loop(model)


def test_arrays_refuse_too_small_a_size() -> None:
    with pytest.raises(InvalidArgument, match="4 rows of 3 slots cannot hold a table of 5 of 3"):
        arrays(made_up(), 4)
