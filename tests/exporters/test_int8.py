"""int8: what rounding may cost is bounded by the steps, measured ranges are those of the values, and the default model
keeps its pictures."""

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from safetensors.numpy import load_file

import diffrt
import exporters
from diffrt.bundle import Bundle
from diffrt.cli import run as diffrt_cli
from diffrt.components.tokenizer import Tokenizer
from diffrt.pipeline import BUNDLES
from exporters.int8 import quantizing
from exporters.int8.calibration import RANGES, SIZES, Range, observed, read
from exporters.int8.layers import layers
from exporters.int8.rewriting import LEVELS, quantize, rounded, scaled
from exporters.int8.timing import faster

from ..conftest import kept
from . import test_sdxl, test_transformers
from .graphs import parse, randn, run

# Of five layers, those at both ends and the one of groups stay as they are; one weight serves two linear layers.
NET = """net (float[b,20,h,w] x) => (float[b,n,20] y) {
    inner = Relu(x)
    grouped = Conv<kernel_shape=[1,1], group=2>(inner, grouped_weight)
    wide = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(grouped, conv_weight, conv_bias)
    shape = Constant<value_ints=[0, 24, -1]>()
    flat = Reshape(wide, shape)
    tokens = Transpose<perm=[0, 2, 1]>(flat)
    first_half, second_half = Split<axis=0, num_outputs=2>(linear_weight)
    first_weight = Transpose<perm=[1, 0]>(first_half)
    second_weight = Transpose<perm=[1, 0]>(second_half)
    value = MatMul(tokens, first_weight)
    gate = MatMul(tokens, second_weight)
    both = Mul(value, gate)
    last = Transpose<perm=[1, 0]>(last_weight)
    y = MatMul(both, last)
}"""
SHAPES = {
    "grouped_weight": (20, 10, 1, 1), "conv_weight": (24, 20, 3, 3), "conv_bias": (24,), "linear_weight": (64, 24),
    "last_weight": (20, 32),
}  # fmt: skip
FEEDS = {"sample": (2, 4, 16, 16), "timestep": (2,), "encoder_hidden_states": (2, 7, 160)}  # of the default model
FOUND = ["conv_weight", "linear_weight[0]", "linear_weight[1]"]


@pytest.fixture(scope="module")
def weights():
    return {name: randn(*shape) for name, shape in SHAPES.items()}


@pytest.fixture
def net(weights):
    declared = ", ".join(f"float[{','.join(map(str, shape))}] {name}" for name, shape in SHAPES.items())
    model = parse(NET.replace("[b,20,h,w] x)", f"[b,20,h,w] x, {declared})"))
    for value in list(model.graph.inputs)[1:]:
        value.const_value = ir.tensor(weights[value.name], name=value.name)
        model.graph.inputs.remove(value)
        model.graph.register_initializer(value)
    return model


def values(weights, x):
    """The activations, in PyTorch and float64."""
    w = {name: torch.from_numpy(array).double() for name, array in weights.items()}
    grouped = torch.nn.functional.conv2d(torch.from_numpy(x).double().relu(), w["grouped_weight"], groups=2)
    wide = torch.nn.functional.conv2d(grouped, w["conv_weight"], w["conv_bias"], padding=1)
    tokens = wide.flatten(2).transpose(1, 2)
    return {"grouped": grouped, "wide": wide, "tokens": tokens, "both": tokens @ w["linear_weight"].T}


def ranges(weights, x):
    v = values(weights, x)
    ends = {name: (float(each.min()), float(each.max())) for name, each in v.items()}
    halves = [(float(half.min()), float(half.max())) for half in v["both"].chunk(2, dim=-1)]
    tokens = tuple(v["tokens"].shape)
    return {
        "conv_weight": Range(ends["grouped"], ends["wide"], x.shape),
        "linear_weight[0]": Range(ends["tokens"], halves[0], tokens),
        "linear_weight[1]": Range(ends["tokens"], halves[1], tokens),
    }


def test_layers_between_the_ends_are_found(net):
    found = layers(net)
    assert list(found) == FOUND
    assert [each.shape for each in found.values()] == [(24, 20, 3, 3), (24, 32), (24, 32)]


def test_ranges_are_those_of_the_values_over_all_runs(net, weights):
    watched, pictures = observed(net), [randn(2, 20, 5, 6), 3 * randn(1, 20, 4, 7)]
    found = {RANGES: -np.inf, SIZES: 0}
    for x in pictures:
        outputs = dict(zip([v.name for v in watched.graph.outputs], run(watched, {"x": x}), strict=True))
        found = {key: np.maximum(found[key], outputs[key]) for key in found}
    each = [ranges(weights, x) for x in pictures]
    for name, got in read(net, found).items():
        for side in ("input", "output"):
            ends = np.array([getattr(of[name], side) for of in each])
            np.testing.assert_allclose(getattr(got, side), (ends[:, 0].min(), ends[:, 1].max()), rtol=1e-5)
    assert read(net, found)["conv_weight"].shape == (2, 20, 5, 7)


def test_the_error_is_within_what_rounding_can_cost(net, weights, tmp_path):
    """|w x - w' x'| <= |w - w'| |x| + |w'| |x - x'|: half a step of each at most, over all that a layer adds up."""
    x = randn(2, 20, 9, 11)
    outputs = ["wide", "value", "gate"]
    watched = net.clone()
    mark(watched, outputs)
    measured = ranges(weights, x)
    tensors = written(layers(net).values(), weights, tmp_path, ())
    assert quantize(net, measured) == len(FOUND)
    assert net.graph.initializers.keys() == tensors.keys()  # what was transposed and split is not left behind
    fill(net, tensors)
    mark(net, outputs)
    exact, rounded = (dict(zip(outputs, run(model, {"x": x})[1:], strict=True)) for model in (watched, net))

    steps = {name: (max(high, 0) - min(low, 0)) / LEVELS for name, ((low, high), _, _) in unpacked(measured).items()}
    scale = np.abs(weights["conv_weight"]).reshape(24, -1).max(1) / 127
    v = values(weights, x)
    patches = torch.nn.functional.unfold(v["grouped"].abs(), 3, padding=1).sum(1).reshape(2, 1, 9, 11).numpy()
    of_weights = scale[None, :, None, None] / 2 * patches
    of_input = steps["conv_weight"] / 2 * (np.abs(weights["conv_weight"]).reshape(24, -1).sum(1) + 90 * scale)
    low, high = measured["conv_weight"].output
    of_output = (max(high, 0) - min(low, 0)) / LEVELS
    bound = of_weights + of_input[None, :, None, None] + of_output
    error = np.abs(rounded["wide"] - exact["wide"])
    assert (error <= bound).all()
    assert error.max() > of_output / 8  # it was rounded

    tokens = rounded["wide"].reshape(2, 24, -1).transpose(0, 2, 1)  # what the linear layers were given
    for half, name in enumerate(("value", "gate")):
        weight = weights["linear_weight"][half * 32 : (half + 1) * 32]
        scale = np.abs(weight).max(1) / 127
        step = steps[f"linear_weight[{half}]"]
        clipped = np.clip(tokens, *np.array(measured["linear_weight[0]"].input))
        bound = np.abs(clipped).sum(-1, keepdims=True) * scale / 2 + step / 2 * (np.abs(weight).sum(1) + 24 * scale)
        error = np.abs(rounded[name] - clipped @ weight.T)
        assert (error <= bound + 1e-5).all()
        assert error.max() > 0


def test_a_weight_is_rounded_within_half_a_step(net, weights, tmp_path):
    tensors = written(layers(net).values(), weights, tmp_path, ())
    halves = [half.T for half in np.split(weights["linear_weight"], 2)]
    for name, weight, inputs in zip(FOUND, (weights["conv_weight"], *halves), ((1, 2, 3), 0, 0), strict=True):
        narrow = tensors[rounded(name)]
        assert narrow.dtype == np.int8
        scale = np.expand_dims(tensors[scaled(name)], inputs)
        assert (np.abs(narrow * scale - weight) <= scale / 2 * (1 + 1e-5)).all()
        np.testing.assert_array_equal(np.abs(narrow).max(axis=inputs), 127)
    assert tensors.keys().isdisjoint({"conv_weight", "linear_weight"})
    np.testing.assert_array_equal(tensors["last_weight"], weights["last_weight"])


def test_a_weight_of_which_a_part_stays_is_in_the_file_as_it_is_too(net, weights, tmp_path):
    half = layers(net)["linear_weight[1]"]
    assert quantize(net, {half.name: ranges(weights, randn(1, 20, 4, 4))[half.name]}) == 1
    tensors = written([half], weights, tmp_path, net.graph.initializers)
    assert {rounded(half.name), "linear_weight", "conv_weight"} <= tensors.keys()
    assert rounded("linear_weight[0]") not in tensors


def written(chosen, weights, folder, float_too):
    from safetensors.numpy import save_file

    from exporters.int8 import weights as int8_weights
    from exporters.weights import open_weights

    save_file(weights, folder / "model.safetensors")
    (folder / "out").mkdir()
    int8_weights.write(open_weights(folder, "int8"), chosen, folder / "out", float_too)
    return load_file(folder / "out" / "model.int8.safetensors")


def test_layers_are_timed_by_their_shape(net, weights):
    x = randn(1, 20, 8, 8)
    answers = faster(layers(net), ranges(weights, x))
    assert set(answers) == set(FOUND)
    assert answers["linear_weight[0]"] == answers["linear_weight[1]"]  # of one shape, so of one answer


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """The default model in int8, certified: with every layer that could be, as what is faster is not the same twice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantizing, "faster", every)
        return kept(
            "emoji-int8", tmp_path_factory, lambda folder: exporters.export(BUNDLES["emoji"], folder, precision="int8")
        )


def every(found, ranges):
    return dict.fromkeys(found, True)


def test_the_certificate_is_of_int8(bundle):
    manifest = diffrt.load(bundle).bundle.manifest
    precisions = {name: {v.precision for v in spec.variants} for name, spec in manifest.components.items()}
    assert precisions == {
        "text_encoder": {"fp32"}, "unet": {"int8"}, "vae_encoder": {"fp32"}, "vae_decoder": {"int8"},
    }  # fmt: skip
    assert manifest.components["unet"].quantized > 60
    assert manifest.certificate["picture"]["psnr_db"] >= 28
    errors = manifest.certificate["components"]["unet"]
    assert all(1e-3 < of["relative_l2"] < of["tolerance"] for of in errors.values())
    assert not list((bundle / "unet").glob("diffusion_pytorch_model*[!8].safetensors"))  # the float ones


def test_a_bundle_verifies(bundle, capsys):
    assert diffrt_cli(["verify", str(bundle)]) == 0
    assert diffrt_cli(["inspect", str(bundle)]) == 0
    assert "layers in 8 bits" in capsys.readouterr().out


def test_every_layer_has_an_integer_kernel(bundle, tmp_path):
    """In what ONNX Runtime makes of the graph: a fusion that no longer happens would leave it slower than fp32."""
    spec = diffrt.load(bundle).bundle.manifest.components["unet"]
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(bundle / "unet" / "model.int8.ort.onnx", options, providers=["CPUExecutionProvider"])
    graph = onnx.load(tmp_path / "optimised.onnx", load_external_data=False).graph
    found = Counter(node.op_type for node in graph.node)
    assert found["QLinearConv"] + found["MatMulIntegerToFloat"] == spec.quantized


def test_every_layer_has_an_integer_kernel_on_openvino(bundle):
    """A linear layer whose weight is transposed or split in the graph would compute in bf16, at half the speed."""
    openvino = pytest.importorskip("openvino")
    folder = diffrt.load(bundle).bundle
    model = openvino.Core().compile_model(folder.path("unet/model.int8.onnx"), "CPU", {"PERF_COUNT": "YES"})
    request = model.create_infer_request()
    request.infer({name: np.ones(shape, np.float32) for name, shape in FEEDS.items()})
    found = [node.exec_type for node in request.profiling_info if node.node_type.startswith(("Convol", "FullyConn"))]
    assert sum(each.lower().endswith("i8") for each in found) == folder.manifest.components["unet"].quantized


@pytest.mark.parametrize("prompt", ["a red apple", "a 3d emoji of a red fox", "a blue heart"])
def test_pictures_stay_what_they_are(bundle, prompt):
    exact, rounded = diffrt.load("emoji"), diffrt.load(bundle)
    rounded.scheduler = exact.scheduler
    pictures = [
        pipe(prompt, seed=7, num_inference_steps=20, guidance_scale=5.0, output_type="np").images[0]
        for pipe in (exact, rounded)
    ]
    assert psnr(*pictures) >= 28


def test_a_picture_does_not_depend_on_its_batch(bundle):
    pipe = diffrt.load(bundle)
    ask = {"num_inference_steps": 4, "output_type": "np"}
    together = pipe(["a red apple", "a flat rocket"], seed=[7, 8], **ask).images
    for i, prompt in enumerate(("a red apple", "a flat rocket")):
        alone = pipe(prompt, seed=7 + i, **ask).images[0]
        assert np.abs(together[i] - alone).max() <= 1 / 255


def test_a_single_graph_of_it_draws_the_same(bundle, tmp_path):
    """Enlarged by sizes of all axes there too, without which ONNX Runtime refuses the graph."""
    assert diffrt_cli(["export", str(bundle), str(tmp_path / "single"), "--form", "single", "--steps", "4"]) == 0
    pipe = diffrt.load(bundle)
    tokenizer = Tokenizer.from_bundle(bundle, pipe.bundle.manifest, "text_encoder")
    session = ort.InferenceSession(tmp_path / "single" / "pipeline.onnx", providers=["CPUExecutionProvider"])
    feeds = {
        "input_ids": tokenizer(["a red apple"]).ids, "negative_ids": tokenizer([""]).ids, "seed": np.array([7]),
        "guidance_scale": np.array(3.0, np.float32), "num_inference_steps": np.array(4),
    }  # fmt: skip
    (picture,) = session.run(["images"], feeds)[0]
    ask = {"num_inference_steps": 4, "guidance_scale": 3.0, "rng": "philox"}
    expected = np.asarray(pipe("a red apple", seed=7, **ask).images[0].convert("RGB"), int)
    assert np.abs(picture - expected).max() <= 1


def psnr(got, expected):
    return -10 * np.log10(np.mean((got - expected) ** 2))


def unpacked(measured):
    return {name: (each.input, each.output, each.shape) for name, each in measured.items()}


def mark(model, names):
    """Give inner values as outputs too."""
    found = {v.name: v for node in model.graph for v in node.outputs}
    for name in names:
        value = found[name]
        node = ir.node("Identity", [last_form(value)])
        node.outputs[0].name, node.outputs[0].type = f"{name}_seen", ir.TensorType(ir.DataType.FLOAT)
        model.graph.append(node)
        model.graph.outputs.append(node.outputs[0])


def last_form(value):
    """A layer's output as what follows it is given it: rounded, where it is."""
    for user, _ in value.uses():
        if user.op_type == "QuantizeLinear":
            return next(iter(user.outputs[0].uses())).node.outputs[0]
    return value


def fill(model, tensors):
    """The int8 tensors and their scales, as they are in the file."""
    for name, initializer in model.graph.initializers.items():
        initializer.const_value = ir.tensor(tensors[name], name=name)


@pytest.mark.slow  # an export each
@pytest.mark.parametrize("kind", ["sdxl", "sd3", "flux dev"])
def test_other_families(kind, tmp_path, monkeypatch):
    """Flux's weights are bf16."""
    monkeypatch.setattr(quantizing, "faster", every)
    if kind == "sdxl":
        test_sdxl.write(tmp_path / "checkpoint", "base")
    else:
        test_transformers.write(tmp_path / "checkpoint", kind)
    bundle = exporters.export(tmp_path / "checkpoint", tmp_path / "bundle", precision="int8")
    manifest = Bundle.open(bundle).manifest
    counts = {name: spec.quantized for name, spec in manifest.components.items() if spec.quantized}
    assert counts.keys() == {manifest.denoiser, "vae_decoder"} and min(counts.values()) > 10
    assert manifest.certificate["picture"]["psnr_db"] >= 28
