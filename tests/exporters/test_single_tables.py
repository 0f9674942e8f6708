"""A single graph over a toy network is the host loop: for the table of every scheduler of the registry."""

from collections.abc import Mapping
from functools import cache
from itertools import pairwise

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx_ir.passes.common import NameFixPass

from diffrt import noise, schedulers
from diffrt.brownian import row_noise
from diffrt.denoise import denoise, start
from diffrt.errors import InvalidArgument
from diffrt.guidance import Conditions, guide, is_guided
from diffrt.schedulers import SCHEDULERS, Table
from diffrt.tables.arrays import single_inputs
from exporters.single.graph import assemble
from exporters.single.source import Source
from exporters.single.tables import baked
from exporters.single.tokenizer import Vocabulary
from tests.schedulers.reference import SD_CONFIG
from tests.schedulers.test_backends import tables

SHAPE, TOKENS, SEEDS = (3, 4, 6), 5, (7, -2)
IDS, AWAY = np.array([[1, 2, 3, 4, 5], [6, 0, 9, 2, 2]]), np.array([[3, 1, 0, 0, 8]])
HEADER = '<ir_version: 10, opset_import: ["": 23]>\n'
TEXT = """text (int64[texts,5] input_ids) => (float[texts,5,1] last_hidden_state) {
    axis = Constant<value_ints = [2]>()
    last = Unsqueeze(input_ids, axis)
    last_hidden_state = Cast<to = 1>(last)
}"""
UNET = """unet (float[all,3,4,6] sample, float[all] timestep, float[all,5,1] encoder_hidden_states)
    => (float[all,3,4,6] out_sample) <float[1] weight = {0.8}> {
    axes = Constant<value_ints = [1, 2, 3]>()
    period = Constant<value_float = 170.0>()
    turned = Div(timestep, period)
    wave = Cos(turned)
    phase = Unsqueeze(wave, axes)
    tokens = Constant<value_ints = [1]>()
    axis = Constant<value_ints = [1, 2]>()
    word = ReduceMean<keepdims = 1>(encoder_hidden_states, axis)
    said = Unsqueeze(word, tokens)
    part = Constant<value_float = 0.1>()
    heard = Mul(said, part)
    own = Mul(sample, weight)
    moved = Add(own, phase)
    guided = Add(moved, heard)
    out_sample = Tanh(guided)
}"""
DECODER = """decoder (float[batch,3,4,6] latent_sample) => (float[batch,3,8,12] sample) {
    scales = Constant<value_floats = [1.0, 1.0, 2.0, 2.0]>()
    sample = Resize<mode = "nearest">(latent_sample, , scales)
}"""


def toy(text: str) -> ir.Model:
    return ir.serde.deserialize_model(onnx.parser.parse_model(HEADER + text))


def numpy_toy(x: np.ndarray, t: float, told: Conditions) -> np.ndarray:
    heard = told["embeds"].mean(axis=(1, 2), keepdims=True)[..., None] * np.float32(0.1)
    return np.tanh(np.float32(0.8) * x + np.cos(np.float32(t) / np.float32(170)) + heard)


def source(own: Mapping[str, np.ndarray]) -> Source:
    words = Vocabulary("", "", TOKENS, 0, 1, 1)
    return Source(toy(TEXT), toy(UNET), toy(DECODER), own, None, words, False, SHAPE, 2)


@cache
def session(unrolled: bool = False) -> ort.InferenceSession:
    own = baked(SCHEDULERS["DDIMScheduler"].from_config(SD_CONFIG), [3])
    model = assemble(source(own), unrolled=unrolled)
    NameFixPass()(model)
    proto = ir.serde.serialize_model(model)
    onnx.checker.check_model(proto, full_check=True)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def by_graph(steps: int, scale: float, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs by name; every fed input must be one that the graph declares."""
    feeds = {
        "input_ids": IDS, "negative_ids": AWAY, "seed": np.array(SEEDS),
        "guidance_scale": np.array(scale, np.float32), "num_inference_steps": np.array(steps), **given,
    }  # fmt: skip
    names = [output.name for output in session().get_outputs()]
    return dict(zip(names, session().run(names, feeds), strict=True))


def by_host(table: Table, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """The run time's own loop: latents, and what it drew, in its order."""
    streams, drawn = noise.generators(SEEDS, "philox"), []
    row = row_noise(table, streams, SEEDS, "philox", SHAPE)

    def draw(i: int | None) -> np.ndarray:
        drawn.append(noise.randn(streams, SHAPE) if i is None else row(i))
        return drawn[-1]

    embeds, away = ({"embeds": ids.astype(np.float32)[..., None]} for ids in (IDS, np.repeat(AWAY, len(IDS), axis=0)))
    model = guide(numpy_toy, embeds, away if is_guided(scale) else None, scale)
    *_, last = denoise(table, model, start(table, draw(None)), draw)
    return last.latents, np.stack(drawn)


def apart(ours: np.ndarray, reference: np.ndarray) -> float:
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler(name):
    """Fed as tensors to a graph that has another one's table baked in. A Brownian path is fed as noise."""
    ran = 0
    for label, table in sorted(tables(name), key=lambda each: each[1].evals):
        if ran and table.evals > 100:
            break  # repainting goes back and forth a thousand times
        if table.threshold is not None or table.spread is not None:
            with pytest.raises(InvalidArgument, match="no thresholding and no learned variance"):
                single_inputs(table)
            continue
        expected, drawn = by_host(table, 4.0)
        given = single_inputs(table) | ({"noise": drawn} if table.path else {})
        assert apart(by_graph(table.steps, 4.0, given)["latents"], expected) < 1e-4, label
        ran += 1
    assert ran


def test_guidance_and_the_table_that_is_baked_in():
    table = SCHEDULERS["DDIMScheduler"].from_config(SD_CONFIG).table(3)
    results = []
    for scale in (0.5, 1.0, 1.01, 7.5):
        results.append(by_host(table, scale)[0])
        assert apart(by_graph(3, scale, {})["latents"], results[-1]) < 1e-6
    assert np.array_equal(results[0], results[1]) and apart(results[2], results[3]) > 0.1


def test_noise_in_the_place_of_the_seeds():
    table = SCHEDULERS["EulerAncestralDiscreteScheduler"].from_config(SD_CONFIG).table(6)
    expected, drawn = by_host(table, 4.0)
    given = single_inputs(table) | {"seed": np.array([0, 0])}
    assert apart(by_graph(6, 4.0, given)["latents"], expected) > 0.1
    assert apart(by_graph(6, 4.0, given | {"noise": drawn})["latents"], expected) < 1e-5


@pytest.mark.parametrize("name", ["EulerAncestralDiscreteScheduler", "PNDMScheduler", "HeunDiscreteScheduler"])
def test_segments_make_the_run(name):
    """Bit for bit, noise and remembered outputs included, however it is cut."""
    table = SCHEDULERS[name].from_config(SD_CONFIG).table(7)
    given = single_inputs(table)
    whole = by_graph(7, 4.0, given)
    for cuts in ([0, 1, 2, 3, table.evals], [0, 4, table.evals]):
        part = {"slots": np.zeros((1, 1, *SHAPE), np.float32)}
        for begin, end in pairwise(cuts):
            segment = {"start": np.array(begin), "count": np.array(end - begin), "slots_before": part["slots"]}
            part = by_graph(7, 4.0, given | segment)
        assert all(np.array_equal(part[key], whole[key]) for key in whole)


def test_unrolled_is_the_loop():
    for table in (
        SCHEDULERS[name].from_config(SD_CONFIG).table(3)
        for name in ("DDIMScheduler", "EulerAncestralDiscreteScheduler", "LMSDiscreteScheduler")
    ):
        given = single_inputs(table)
        looped = by_graph(3, 4.0, given)
        feeds = {"input_ids": IDS, "negative_ids": AWAY, "seed": np.array(SEEDS), **given}
        del feeds["table_steps"]
        feeds["guidance_scale"] = np.array(4.0, np.float32)
        for name, array in zip(looped, session(True).run(list(looped), feeds), strict=True):
            assert np.array_equal(array, looped[name])


def test_what_cannot_be_baked_in():
    config = SD_CONFIG | {"_class_name": "DPMSolverSDEScheduler"}
    with pytest.raises(InvalidArgument, match="one Brownian path"):
        baked(schedulers.from_config(config, "DPMSolverSDEScheduler"), [4])
    with pytest.raises(InvalidArgument, match="allowed: 1 to 1000"):
        baked(SCHEDULERS["DDIMScheduler"].from_config(SD_CONFIG), [4, 1001])


REFUSED = {
    "num_inference_steps must be one of 3": {"num_inference_steps": np.array(4)},
    "start must be from 0 to the last evaluation": {"start": np.array(3)},
    "and count at least 1": {"count": np.array(0)},
    "slots_before must be the slots that the last segment gave": {"start": np.array(1)},
    "seed must have one entry for each row of input_ids": {"seed": np.array([1])},
    "negative_ids must have one row, or as many as input_ids": {"negative_ids": np.repeat(AWAY, 3, axis=0)},
    "negative_ids must have one row": {
        "input_ids": IDS[:1],
        "seed": np.array([1]),
        "negative_ids": np.repeat(AWAY, 3, axis=0),
    },
    "Expected: 5": {"input_ids": IDS[:, :4]},
}


@pytest.mark.parametrize("says", REFUSED)
def test_what_is_refused(says):
    with pytest.raises(Exception, match=says):
        by_graph(3, 4.0, REFUSED[says])
