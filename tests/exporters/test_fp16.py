"""fp16 that never goes black: fp32 weights converted, what overflows measured and computed in fp32.

ONNX Runtime computes most of an fp16 graph in fp32 on the CPU, where little overflows. So graphs are run by ONNX's
reference evaluator, whose every value between two nodes is truly fp16; diffusers in float32 is what is right.
"""

import hashlib
import shutil
from typing import NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from onnx.reference import ReferenceEvaluator
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import diffrt
import exporters
from diffrt.bundle import Bundle
from diffrt.errors import CheckpointError, NumericalError
from diffrt.manifest import Manifest
from diffrt.pipeline import BUNDLES
from diffrt.providers import PROVIDERS
from diffrt.session import Session
from diffrt.summary import summary
from exporters.checkpoint import Checkpoint, open_checkpoint
from exporters.conversion import LARGEST, convert
from exporters.lowering import lower
from exporters.passes.widen import infer_types, widen
from exporters.ranges import LIMIT, LOGITS, OUTPUTS, Ranges, beyond, computing, observed
from exporters.spec import TOLERANCE
from exporters.trace import declare_shapes, trace
from exporters.weights import Weights, attach, open_weights

from ..conftest import kept
from .conftest import shard
from .graphs import RNG, parse
from .mini import write_mini

LATENTS = np.random.default_rng(0).standard_normal((2, 4, 6, 5), dtype=np.float32)


def scale(file, factors):
    """Multiply tensors of a checkpoint, by a power of two so that their digits stay."""
    tensors = load_file(file)
    save_file({n: t * factors.get(n, 1) for n, t in tensors.items()}, file, {"format": "pt"})


def relative(got, expected):
    return np.linalg.norm(got - expected) / np.linalg.norm(expected)


class Decoder(NamedTuple):
    checkpoint: Checkpoint
    vae: AutoencoderKL  # diffusers', float32
    weights: Weights  # converted
    traced: ir.Model  # with every dtype known
    ranges: Ranges  # over LATENTS

    def write(self, nodes=(), form="portable"):
        """The graph with some nodes in fp32."""
        model = self.traced.clone()
        order = {node: k for k, node in enumerate(self.traced.graph)}
        places, copies = {order[node] for node in nodes}, list(model.graph)
        widen(model, [copies[k] for k in places])
        lower(model, form)
        return self.save(model, f"{form}-{len(places)}")

    def save(self, model, name):
        declare_shapes(model, self.checkpoint.components[-1], {})
        ir.save(model, self.weights.folder / f"{name}.onnx")
        return self.weights.folder / f"{name}.onnx"


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """A decoder in which a convolution before a norm and the values of an attention reach some 10^5."""
    folder = write_mini(tmp_path_factory.mktemp("loud") / "checkpoint")
    attention, resnet = "decoder.mid_block.attentions.0", "decoder.up_blocks.0.resnets.0"
    factors = {f"{attention}.value.{kind}": 2.0**17 for kind in ("weight", "bias")}
    factors |= {f"{resnet}.conv1.{kind}": 2.0**19 for kind in ("weight", "bias")}
    scale(folder / "vae/diffusion_pytorch_model.safetensors", factors | {f"{attention}.proj_attn.weight": 2.0**-10})
    checkpoint = open_checkpoint(folder)
    placed = tmp_path_factory.mktemp("placed")
    weights = convert(checkpoint.weights("vae", "fp16"), placed)
    traced = trace(checkpoint.components[-1], checkpoint.configs["vae"], weights)
    attach(traced, weights)
    infer_types(traced)
    vae = AutoencoderKL.from_pretrained(folder / "vae").eval()
    unmeasured = Decoder(checkpoint, vae, weights, traced, Ranges(np.zeros(0), np.zeros(0)))
    out = Session(unmeasured.save(observed(traced), "ranges"), PROVIDERS["cpu"]).run({"latent_sample": LATENTS})
    return unmeasured._replace(ranges=Ranges(out[OUTPUTS], out[LOGITS]))


@pytest.fixture(scope="module")
def expected(decoder):
    with torch.no_grad():
        return decoder.vae.decode(torch.from_numpy(LATENTS) / decoder.vae.config.scaling_factor).sample.numpy()


def truly_fp16(graph):
    with np.errstate(all="ignore"):
        return ReferenceEvaluator(onnx.load(graph)).run(None, {"latent_sample": LATENTS})[0]


def test_plain_fp16_is_black_and_this_is_not(decoder, expected):
    assert not np.isfinite(truly_fp16(decoder.write())).any()
    nodes, _ = beyond(decoder.traced, decoder.ranges)
    for got in (
        truly_fp16(decoder.write(nodes)),
        Session(decoder.write(nodes, "ort"), PROVIDERS["cpu"]).run({"latent_sample": LATENTS})["sample"],
    ):
        assert relative(got, expected) < TOLERANCE["fp16"] / 10


def test_exactly_the_responsible_nodes_are_named(decoder):
    """Those of the modules in which PyTorch meets values beyond the limit, with PyTorch's magnitudes."""
    met, hooks = {}, []
    for name, module in decoder.vae.named_modules():
        if not list(module.children()):
            hook = lambda m, i, out, name=name: met.update({name: float(out.abs().max())})  # noqa: E731
            hooks.append(module.register_forward_hook(hook))
    with torch.no_grad():
        decoder.vae.decode(torch.from_numpy(LATENTS) / decoder.vae.config.scaling_factor)
    for hook in hooks:
        hook.remove()
    loud = {name: size for name, size in met.items() if size > LIMIT}
    nodes, causes = beyond(decoder.traced, decoder.ranges)
    attention = "decoder.mid_block.attentions.0"
    assert set(loud) == {f"{attention}.to_v", "decoder.up_blocks.0.resnets.0.conv1"}
    named = {key.rpartition(" ")[0]: size for key, size in causes.items()}
    assert set(named) == {*(f"{name} {op}" for name in loud for op in OPS[name.rpartition(".")[2]]),
                          f"{attention} Attention"}  # fmt: skip
    for name, size in loud.items():
        assert named[f"{name} {OPS[name.rpartition('.')[2]][-1]}"] == pytest.approx(size, rel=0.01)
    takers = ["MatMul", "GroupNormalization"]  # to_out and norm2: they take what fp16 cannot hold
    assert sorted(n.op_type for n in nodes) == sorted([*(key.split()[1] for key in causes), *takers])


OPS = {"to_v": ("MatMul", "Add"), "conv1": ("Conv",)}  # the nodes that a module becomes


def test_a_graph_of_fixed_size_has_the_same_nodes(decoder):
    component = decoder.checkpoint.components[-1]
    fixed = trace(component, decoder.checkpoint.configs["vae"], decoder.weights, {"h": 8, "w": 8})
    attach(fixed, decoder.weights)
    infer_types(fixed)
    assert [n.op_type for n in computing(fixed)] == [n.op_type for n in computing(decoder.traced)]
    labels = [[key.split()[:-1] for key in beyond(m, decoder.ranges)[1]] for m in (fixed, decoder.traced)]
    assert labels[0] == labels[1]


def test_the_run_time_names_the_fix(decoder):
    """In sliced attention a Scan keeps values in fp16 on the CPU as well."""
    plain = Session(decoder.write(form="sliced"), PROVIDERS["cpu"], "vae_decoder", "fp16")
    with pytest.raises(
        NumericalError, match=r"vae_decoder \(fp16\) gave NaN or infinity in sample: export again.*fp32"
    ):
        plain.run({"latent_sample": LATENTS})
    nodes, _ = beyond(decoder.traced, decoder.ranges)
    Session(decoder.write(nodes, "sliced"), PROVIDERS["cpu"], "vae_decoder", "fp16").run({"latent_sample": LATENTS})


# Ranges of small graphs.


def measured(model, feeds):
    proto = ir.serde.serialize_model(observed(model)).SerializeToString()
    session = onnxruntime.InferenceSession(proto, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    out = dict(zip(names, session.run(None, feeds), strict=True))
    return Ranges(out[OUTPUTS], out.get(LOGITS, np.zeros(0)))


@pytest.mark.parametrize("joined", [True, False])
def test_logits(joined):
    """The bound lies above every logit, meets the largest where query and key point one way, and names the node alone:
    its output fits."""
    shape, heads = ("B,L,8", "q_num_heads = 2, kv_num_heads = 2,") if joined else ("B,2,L,4", "")
    model = parse(f"""agraph (float[{shape}] q, float[{shape}] k, float[{shape}] v) => (float[{shape}] y) {{
        a = Cast<to = 10>(q)  b = Cast<to = 10>(k)  c = Cast<to = 10>(v)
        d = Attention<{heads} scale = 0.25>(a, b, c)
        e = Neg(d)
        y = Cast<to = 1>(e)
    }}""")
    q, k, v = RNG.standard_normal((3, 2, 5, 8)).astype(np.float32) * np.float32([[[[100]]], [[[100]]], [[[1]]]])
    q[1, 3, :4] = 400
    k[1, 2, :4] = 500
    split = [x.reshape(2, 5, 2, 4).transpose(0, 2, 1, 3) for x in (q, k)]
    largest = np.abs(split[0] @ split[1].transpose(0, 1, 3, 2)).max() * 0.25
    feeds = {"q": q, "k": k, "v": v} if joined else {
        n: x.reshape(2, 5, 2, 4).transpose(0, 2, 1, 3) for n, x in {"q": q, "k": k, "v": v}.items()
    }  # fmt: skip
    ranges = measured(model, feeds)
    assert largest == 4 * 400 * 500 / 4
    assert ranges.logits == pytest.approx([largest], rel=1e-3)
    nodes, causes = beyond(model, ranges)
    assert [n.op_type for n in nodes] == ["Attention"]
    assert list(causes.values()) == [pytest.approx(largest, rel=0.01)]


def test_what_moves_a_large_value_is_widened_with_what_takes_it():
    model = parse("""agraph (float[N,4] x) => (float[4,N] y) {
        small = Cast<to = 10>(x)
        thousand = Constant<value_float = 1000.0>()
        factor = Cast<to = 10>(thousand)
        large = Mul(small, factor)
        turned = Transpose<perm = [1, 0]>(large)
        root = Sqrt(turned)
        other = Neg(root)
        y = Cast<to = 1>(other)
    }""")
    x = np.float32([[1, 4, 9, 100]])
    ranges = measured(model, {"x": x})
    np.testing.assert_array_equal(ranges.outputs, [100, 1000, 1e5, np.float32(1e5**0.5), np.float32(1e5**0.5)])
    nodes, causes = beyond(model, ranges)
    assert [n.op_type for n in nodes] == ["Mul", "Transpose", "Sqrt"]
    assert causes == {"Mul large": 1e5}


# Weights.


def test_halves_of_shards(tmp_path):
    source = tmp_path / "unet"
    source.mkdir()
    tensors = {
        "a.weight": torch.randn(5, 3),
        "b": torch.tensor(2.5),
        "c": torch.randn(7).half(),
        "empty": torch.zeros(0, 2),
    }
    tensors |= {"position_ids": torch.arange(4)}
    save_file(tensors, source / "diffusion_pytorch_model.safetensors")
    shard(source / "diffusion_pytorch_model.safetensors")
    weights = open_weights(source, "fp16")
    assert weights.to_convert
    done = convert(weights, tmp_path)
    (file,) = done.files
    assert file == tmp_path / "diffusion_pytorch_model.fp16.safetensors"
    assert not done.to_convert
    got = load_file(file)
    assert set(got) == set(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(got[name], tensor.half() if tensor.is_floating_point() else tensor)
        assert got[name].dtype == (torch.float16 if tensor.is_floating_point() else tensor.dtype)
    with safe_open(file, "pt") as opened:
        assert opened.metadata() == {"format": "pt"}  # transformers asks for it


@pytest.mark.parametrize("value", [70000.0, -1e30, float("nan")])
def test_a_weight_that_fp16_cannot_hold_is_named(tmp_path, value):
    save_file({"fine": torch.ones(3), "large": torch.tensor([1.0, value])}, tmp_path / "model.safetensors")
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match=r"tensor 'large' has values up to .*--precision fp32"):
        convert(open_weights(tmp_path, "fp16"), tmp_path / "out")


# A whole export of the default model, its weights in float32 and its decoder made to overflow.


@pytest.fixture(scope="module")
def loud_emoji(tmp_path_factory):
    """(fp32 checkpoint, fp16 bundle exported from it)"""
    emoji = BUNDLES["emoji"]

    def make(folder):
        source = folder / "checkpoint"
        shutil.copytree(emoji, source, ignore=shutil.ignore_patterns("*.onnx", "*.safetensors", "diffrt.json"))
        for part in ("text_encoder", "unet", "vae"):
            (file,) = (emoji / part).glob("*.fp16.safetensors")
            tensors = {name: tensor.float() for name, tensor in load_file(file).items()}
            save_file(tensors, source / part / file.name.replace(".fp16", ""), {"format": "pt"})
        conv = "decoder.up_blocks.0.resnets.0.conv1"
        factor = 2.0 ** np.floor(np.log2(LARGEST / float(tensors[f"{conv}.weight"].abs().max())))
        scale(source / "vae/diffusion_pytorch_model.safetensors", {f"{conv}.{k}": factor for k in ("weight", "bias")})
        exporters.export(source, folder / "bundle", precision="fp16", attention="ort")

    weights = hashlib.sha256((emoji / "diffrt.json").read_bytes()).hexdigest()[:8]
    folder = kept(f"loud-emoji-{weights}", tmp_path_factory, make)
    return folder / "checkpoint", folder / "bundle"


@pytest.mark.slow
def test_the_bundle_holds_fp16_alone_and_says_what_overflowed(loud_emoji):
    _, bundle = loud_emoji
    manifest = Manifest.loads((bundle / "diffrt.json").read_text("utf-8"))
    weights = {name for name in manifest.files if name.endswith(".safetensors")} - {manifest.probe}
    assert weights == {"text_encoder/model.fp16.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors",
                       "vae/diffusion_pytorch_model.fp16.safetensors"}  # fmt: skip
    assert not [name for name in manifest.files if "ranges" in name]
    overflows = {name: component.overflows for name, component in manifest.components.items()}
    (cause,) = overflows.pop("vae_decoder")
    assert cause.startswith("decoder.up_blocks.0.resnets.0.conv1 Conv")
    assert all(found == {} for found in overflows.values())
    for component in manifest.certificate["components"].values():
        assert all(figures["relative_l2"] < 2e-3 for figures in component.values())
    assert "does not fit fp16 and computes in fp32: 1 node(s), up to" in summary(Bundle.open(bundle))


@pytest.mark.slow
def test_its_pictures_are_those_of_diffusers_in_fp32(loud_emoji):
    source, bundle = loud_emoji
    call = {"num_inference_steps": 6, "guidance_scale": 5.0, "output_type": "np"}
    reference = StableDiffusionPipeline.from_pretrained(source)
    reference.set_progress_bar_config(disable=True)
    expected = reference("a red apple", generator=torch.Generator("cpu").manual_seed(7), **call).images
    got = diffrt.load(bundle)("a red apple", seed=7, **call).images
    assert expected.std() > 0.1
    assert -10 * np.log10(np.mean((got - expected) ** 2)) >= 35


@pytest.mark.slow
def test_diffusers_loads_it(loud_emoji):
    pipe = StableDiffusionPipeline.from_pretrained(loud_emoji[1], variant="fp16", torch_dtype=torch.float16)
    assert pipe.unet.dtype == torch.float16
