"""Step graphs: what is written, that CUDA could capture it, and that it is the components' arithmetic."""

import subprocess
import sys

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import diffrt
from diffrt.bundle import Bundle
from diffrt.cli import run
from diffrt.errors import BundleError, ExportError, InvalidArgument
from diffrt.manifest import STEP, TensorSpec
from diffrt.providers import PROVIDERS
from diffrt.session import Session
from diffrt.verify import GraphCheck, verify
from exporters import step
from exporters.nodes import FLOAT, Nodes, value
from exporters.step.graph import step as wrapped

from .mini import contents
from .test_single import LIGHT

CONTROL = {"If", "Loop", "Scan", "SequenceMap"}
FROM_HOST = {"Clip", "Expand", "Tile", "Slice", "ConstantOfShape", "Range"}  # CUDA's kernels read inputs on the host


@pytest.fixture(scope="module")
def emoji(tmp_path_factory):
    """Exported where PyTorch cannot be imported."""
    dest = tmp_path_factory.mktemp("step") / "emoji"
    code = LIGHT.replace('"single"', '"step"')
    done = subprocess.run([sys.executable, "-c", code, dest], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return dest


def toy(*sizes, takes=4):
    """A denoiser as exporters write it: m = sample * timestep + told."""
    names = [value("sample", FLOAT, ["batch", takes, *sizes]), value("timestep", FLOAT, ["batch"])]
    graph = ir.Graph(
        [*names, value("told", FLOAT, ["batch", "sequence"])], [], nodes=[], opset_imports={"": 23}, name="toy"
    )
    do = Nodes(graph).do
    axes = np.array([1, 2, 3])
    told = do("Unsqueeze", do("ReduceMean", graph.inputs[2], np.array([1]), keepdims=0), axes)
    m = do("Add", do("Mul", names[0], do("Unsqueeze", names[1], axes)), told, name="slots")
    m.name, m.type, m.shape = "out_sample", ir.TensorType(FLOAT), ir.Shape(["batch", 4, *sizes])
    graph.outputs.append(m)
    return ir.Model(graph, ir_version=10)


# --- the graph --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [("h", "w"), (3, 5)], ids=["any size", "static"])
def test_a_row_of_a_table(sizes, tmp_path):
    """Against the sums as diffrt/tables/table.py and diffrt/guidance.py say them, in float64."""
    model = wrapped(toy(*sizes))
    ops = [node.op_type for node in model.graph]
    assert ("Shape" in ops) == (sizes == ("h", "w")) and not CONTROL & set(ops) and not FROM_HOST & set(ops)
    onnx.checker.check_model(ir.serde.serialize_model(model), full_check=True)
    ir.save(model, tmp_path / "step.onnx")
    rng = np.random.default_rng(0)
    slots, z = rng.standard_normal((3, 2, 4, 3, 5)), rng.standard_normal((2, 4, 3, 5))
    told, W = rng.standard_normal((4, 7)), rng.standard_normal((3, 6))
    for scale, pictures in ((3.0, [0, 1, 0, 1]), (1.0, [0, 1])):
        without, with_prompt = (
            slots[0] * 0.4 * 1.7 + each.mean(axis=1)[:, None, None, None] for each in (told[:2], told[-2:])
        )
        halves = len(pictures) // 2
        m = without + scale * (with_prompt - without) if halves == 2 else with_prompt
        y = np.clip(0.8 * slots[0] - 0.6 * m, -1, 1)
        expected = np.einsum("st,t...->s...", W, np.stack([*slots, y, m, z]))
        weights = np.concatenate([(1 - scale) * np.eye(2), scale * np.eye(2)][-halves:], axis=1)
        feeds = {
            "slots": slots, "z": z, "weights": weights, "W": W, "c_in": 0.4, "p": 0.8, "q": -0.6, "clip": 1.0,
            "timestep": np.full(len(pictures), 1.7), "told": told[-len(pictures) :],
        }  # fmt: skip
        feeds = {name: np.asarray(array, np.float32) for name, array in feeds.items()}
        session = Session(tmp_path / "step.onnx", PROVIDERS["cpu"], STEP)
        got = session.run(feeds | {"pictures": np.array(pictures)})["slots_after"]
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_a_denoiser_of_more_than_latents_is_refused():
    with pytest.raises(ExportError, match="takes 9 channels and gives 4"):
        wrapped(toy("h", "w", takes=9))


# --- the bundle -------------------------------------------------------------------------------------------------------


def test_there_is_one_for_each_of_the_denoisers_graphs_over_its_weights(emoji):
    bundle, source = Bundle.open(emoji), diffrt.load("emoji").bundle
    files = [variant.file for variant in bundle.component(STEP).variants]
    assert files == ["unet/step.fp16.onnx", "unet/step.fp16.cuda.onnx", "unet/step.fp16.ort.onnx"]
    weights = "unet/diffusion_pytorch_model.fp16.safetensors"
    assert bundle.manifest.files[weights] == source.manifest.files[weights]
    assert sum(bundle.manifest.files[file].bytes for file in files) < 2**20
    state = ("slots", "batch", 4, "h", "w")
    assert bundle.component(STEP).inputs[0] == TensorSpec("slots", "float32", state)
    for variant in bundle.component(STEP).variants:
        graph = onnx.load(bundle.path(variant.file), load_external_data=False).graph
        assert not any(node.op_type in CONTROL for node in graph.node)


def test_it_is_certified_by_what_pytorch_answered_for_the_denoiser(emoji, capsys):
    manifest = Bundle.open(emoji).manifest
    figures = manifest.certificate["components"][STEP]
    here = [variant for variant in manifest.components[STEP].variants if variant.attention != "cuda"]
    for variant in here:
        assert 0 < figures[variant.file]["relative_l2"] < figures[variant.file]["tolerance"]
    checks = [c for c in verify(Bundle.open(emoji)) if isinstance(c, GraphCheck) and c.component == STEP]
    assert [check.file for check in checks] == [variant.file for variant in here]
    assert all(check.passed for check in checks)
    assert run(["inspect", str(emoji)]) == 0
    assert "unet/step.fp16.ort.onnx" in capsys.readouterr().out


def test_what_is_refused(emoji, tmp_path):
    for options, says in (
        ({"static": (64, 64)}, "is a bundle: its static is what it is"),
        ({"attention": "sliced"}, "its attention is what it is"),
    ):
        with pytest.raises(InvalidArgument, match=says):
            step.export("emoji", tmp_path / "x", **options)
    with pytest.raises(InvalidArgument, match="has step graphs already"):
        step.export(emoji, tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_a_source_is_left_as_it_is(sd1_bundle, tmp_path):
    before = contents(sd1_bundle)
    made = step.export(sd1_bundle, tmp_path / "steps")
    assert contents(sd1_bundle) == before
    assert {f: b for f, b in contents(made).items() if f in before and f != "diffrt.json"} == {
        f: b for f, b in before.items() if f != "diffrt.json"
    }


def test_a_damaged_step_graph_is_found(emoji, tmp_path):
    made = step.export("emoji", tmp_path / "steps")
    file = made / "unet" / "step.fp16.onnx"
    file.write_bytes(file.read_bytes().replace(b"slots_after", b"slots_aftee"))
    with pytest.raises(BundleError, match=r"step\.fp16\.onnx is not the file the manifest describes"):
        diffrt.load(made)


@pytest.mark.slow  # a certified export from a checkpoint
def test_of_a_checkpoint(sd1_checkpoint, tmp_path):
    assert run(["export", str(sd1_checkpoint), str(tmp_path / "b"), "--form", "step", "--static", "72x88"]) == 0
    bundle = Bundle.open(tmp_path / "b")
    assert [v.file for v in bundle.component(STEP).variants] == [
        "unet/step.onnx", "unet/step.cuda.onnx", "unet/step.ort.onnx",
        "unet/step.72x88.onnx", "unet/step.cuda.72x88.onnx", "unet/step.ort.72x88.onnx",
    ]  # fmt: skip
    for variant in bundle.component(STEP).variants:
        ops = {node.op_type for node in onnx.load(bundle.path(variant.file), load_external_data=False).graph.node}
        assert ("Shape" in ops) == (variant.static is None)
    call = {"height": 72, "width": 88, "num_inference_steps": 3, "seed": 5, "output_type": "np"}
    pictures = [diffrt.load(bundle.root, loop=loop)("a red apple", **call).images for loop in ("host", "step")]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1 / 255
