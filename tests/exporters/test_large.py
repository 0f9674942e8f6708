"""What keeps the export of a model that is larger than memory small: bf16 weights stay in their file, and both sides of
the certificate hold one tensor of them at a time."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from onnx_ir import save
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks import checkpoints
from diffrt.manifest import TensorSpec
from diffrt.onnx_file import read_initializers
from diffrt.providers import PROVIDERS
from diffrt.safetensors_header import read_header
from diffrt.session import Session
from exporters.built import Streamed, built
from exporters.checkpoint import open_checkpoint
from exporters.conversion import convert
from exporters.spec import Component
from exporters.trace import trace
from exporters.weights import attach, open_weights

from .mini import write_mini

LAYERS, WIDTH = 48, 1024
WIDE = LAYERS * WIDTH**2 * 4  # bytes of all weights in float32


class Chain(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS))

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


def component():
    x, y = (TensorSpec(name, "float32", ("batch", WIDTH)) for name in "xy")
    return Component(build=Chain, inputs=(x,), outputs=(y,), axes={"batch": 3}, name="chain", part="chain")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """bf16 weights and, beside them, the graph."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("large")
    save_file({n: t.bfloat16() for n, t in Chain({}).state_dict().items()}, folder / "model.safetensors")
    weights = open_weights(folder, "fp32")
    weights.check({n: tuple(t.shape) for n, t in Chain({}).state_dict().items()})
    model = trace(component(), {}, weights)
    attach(model, weights)
    save(model, folder / "model.onnx")
    return folder


def test_graphs_point_at_bf16(folder):
    header = read_header(folder / "model.safetensors")
    found = {tensor.name: tensor for tensor in read_initializers(folder / "model.onnx")}
    assert found.keys() == header.keys() and not open_weights(folder, "fp32").to_convert
    for name, entry in header.items():
        tensor = found[name]
        assert (tensor.dtype, tensor.shape, tensor.external.offset) == ("BF16", entry.shape, entry.offset)


@pytest.mark.parametrize("fast", [False, True])
def test_widening_is_exact(folder, fast):
    x = np.random.default_rng(0).standard_normal((3, WIDTH), dtype=np.float32)
    module = Chain({})
    module.load_state_dict({n: t.float() for n, t in load_file(folder / "model.safetensors").items()})
    with torch.inference_mode():
        expected = module(torch.from_numpy(x)).numpy()
    (got,) = Session(folder / "model.onnx", replace(PROVIDERS["cpu"], fast_load=fast)).run({"x": x}).values()
    assert np.linalg.norm(got - expected) < 1e-5 * np.linalg.norm(expected)


MEMORY = """
import re, sys
from dataclasses import replace
from pathlib import Path
import numpy as np
import torch
from diffrt.providers import PROVIDERS
from diffrt.session import Session
from exporters.built import Streamed, built
from exporters.weights import open_weights
from tests.exporters.test_large import Chain, component
side, folder = sys.argv[1], Path(sys.argv[2])
x = np.ones((3, 1024), np.float32)
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
if side in ("streamed", "built"):
    weights = open_weights(folder, "fp32")
    with torch.device("meta"):
        module = Chain({})
    if side == "built":
        built(component(), {}, weights)(torch.from_numpy(x))
    else:
        with torch.inference_mode(), Streamed(module, weights):
            module(torch.from_numpy(x))
else:
    Session(folder / "model.onnx", replace(PROVIDERS["cpu"], fast_load=side == "fast"), arena=False).run({"x": x})
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read as Linux tells it")
@pytest.mark.parametrize(("side", "whole"), [("streamed", "built"), ("fast", "full")])
def test_memory(folder, side, whole):
    """The file is mapped, half as large as in float32; beside it there is one layer, and not all."""

    def grown(side):
        done = subprocess.run([sys.executable, "-c", MEMORY, side, folder], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert grown(whole) > WIDE
    assert grown(side) < 0.75 * WIDE


@pytest.mark.parametrize("form", ["2022", "2026"])
def test_streamed_is_built(tmp_path, form):
    """To the bit, of every component, whatever names the file has."""
    checkpoint = open_checkpoint(write_mini(tmp_path / "checkpoint", form))
    for each in checkpoint.components:
        config, weights = checkpoint.configs[each.part], checkpoint.weights(each.part, "fp32")
        inputs = [torch.from_numpy(array) for array in each.example(each.axes).values()]
        with torch.inference_mode():
            expected = each.call(built(each, config, weights), *inputs)
            with torch.device("meta"):
                module = each.build(config).eval()
            with Streamed(module, weights):
                got = each.call(module, *inputs)
        pairs = zip(*((out,) if isinstance(out, torch.Tensor) else out for out in (got, expected)), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", torch.float16), ("int8", torch.float32)])
def test_bf16_is_converted_for_other_precisions(tmp_path, precision, dtype):
    tensors = {"a": torch.randn(7, 5).bfloat16(), "b": torch.tensor([0.0, -1.5, 1e-6, 6e4]).bfloat16()}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "out").mkdir()
    (file,) = convert(open_weights(tmp_path, precision), tmp_path / "out").files
    for name, tensor in load_file(file).items():
        assert tensor.dtype == dtype and torch.equal(tensor, tensors[name].to(dtype))


def test_a_checkpoint_of_flux(tmp_path, monkeypatch):
    """That the benchmark writes it as published ones lie: bf16, in shards; here with few and small layers."""
    small = {
        "TEXT": {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        "T5_XXL": {"d_model": 24, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 2, "vocab_size": 40},
        "FLUX_DEV": {"num_layers": 1, "num_single_layers": 2, "num_attention_heads": 1, "joint_attention_dim": 24,
                     "pooled_projection_dim": 16},
        "VAE_16": {"block_out_channels": [32, 32], "down_block_types": ["DownEncoderBlock2D"] * 2,
                   "up_block_types": ["UpDecoderBlock2D"] * 2},
    }  # fmt: skip
    parts = {
        part: ({**config, **next(s for n, s in small.items() if getattr(checkpoints, n) is config)}, build, stem)
        for part, (config, build, stem) in checkpoints.FLUX.items()
    }
    monkeypatch.setitem(checkpoints.KINDS, "flux", (parts, *checkpoints.KINDS["flux"][1:]))
    checkpoint = open_checkpoint(checkpoints.write_random("flux", tmp_path / "flux"))
    for each in checkpoint.components:
        weights = checkpoint.weights(each.part, "fp32")
        weights.check({n: tuple(t.shape) for n, t in each.build(checkpoint.configs[each.part]).state_dict().items()})
        assert {entry.dtype for _, entry in weights.tensors.values()} == {"BF16"}
        assert len(weights.files) == checkpoints.SHARDS.get(each.part, 1)
