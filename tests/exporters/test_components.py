"""Every graph of a bundle against diffusers' and transformers' own modules, at even, odd and large sizes."""

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from diffusers import StableDiffusionPipeline

from diffrt.manifest import Manifest
from diffrt.providers import PROVIDERS

SIZES = [(8, 8), (9, 11), (65, 57), (3, 5)]  # latents; 65x57 is a picture of 520x456
LIMIT = 1e-5  # relative L2 in fp32


@pytest.fixture(scope="module", params=["sd1", "sd2"])
def pair(request):
    """(bundle folder, its manifest, diffusers' pipeline of the same checkpoint)"""
    bundle = request.getfixturevalue(f"{request.param}_bundle")
    pipe = StableDiffusionPipeline.from_pretrained(request.getfixturevalue(f"{request.param}_checkpoint"))
    return bundle, Manifest.loads((bundle / "diffrt.json").read_text("utf-8")), pipe


def sessions(bundle, manifest, name):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    for variant in manifest.components[name].variants:
        if variant.attention not in PROVIDERS["cpu"].attention:
            continue
        yield ort.InferenceSession(str(bundle / variant.file), options, providers=["CPUExecutionProvider"])


def check(got, expected):
    expected = expected.numpy()
    assert got.shape == expected.shape
    assert got.dtype == np.float32
    assert np.linalg.norm(got - expected) <= LIMIT * np.linalg.norm(expected)


def randn(*shape):
    return torch.from_numpy(np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32))


@torch.no_grad()
@pytest.mark.parametrize("length", [77, 5])
def test_text_encoder(pair, length):
    bundle, manifest, pipe = pair
    vocabulary = pipe.text_encoder.config.vocab_size
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, vocabulary, (3, length)))
    ids[:, 0], ids[:, -1] = vocabulary - 2, vocabulary - 1
    expected = pipe.text_encoder(ids)
    for session in sessions(bundle, manifest, "text_encoder"):
        hidden, pooled = session.run(["last_hidden_state", "pooler_output"], {"input_ids": ids.numpy()})
        check(hidden, expected.last_hidden_state)
        check(pooled, expected.pooler_output)


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
def test_unet(pair, size):
    bundle, manifest, pipe = pair
    sample, context = randn(2, 4, *size), randn(2, 77, 32)
    timestep = torch.tensor([999.0, 0.5])
    expected = pipe.unet(sample, timestep, context).sample
    feeds = {"sample": sample, "timestep": timestep, "encoder_hidden_states": context}
    for session in sessions(bundle, manifest, "unet"):
        check(session.run(None, {k: v.numpy() for k, v in feeds.items()})[0], expected)


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
def test_vae(pair, size):
    bundle, manifest, pipe = pair
    scale = pipe.vae.config.scaling_factor
    latents, picture = randn(1, 4, *size), randn(1, 3, 8 * size[0], 8 * size[1]).clamp(-1, 1)
    decoded = pipe.vae.decode(latents / scale).sample
    posterior = pipe.vae.encode(picture).latent_dist
    for session in sessions(bundle, manifest, "vae_decoder"):
        check(session.run(None, {"latent_sample": latents.numpy()})[0], decoded)
    for session in sessions(bundle, manifest, "vae_encoder"):
        mean, std = session.run(["mean", "std"], {"sample": picture.numpy()})
        check(mean, posterior.mean * scale)
        check(std, posterior.std * scale)


def test_graphs_hold_no_weights_and_no_decomposed_attention(pair):
    bundle, manifest, pipe = pair
    forms = {
        "ort": ("MultiHeadAttention", "InstanceNormalization"),
        "cuda": ("MultiHeadAttention", "GroupNorm"),
        "portable": ("Attention", "GroupNormalization"),
    }
    for variant in manifest.components["unet"].variants:
        graph = onnx.load(bundle / variant.file, load_external_data=False).graph
        ops = [node.op_type for node in graph.node]
        blocks = sum(type(m).__name__ == "Attention" for m in pipe.unet.modules())
        attention, norm = forms[variant.attention]
        assert ops.count(attention) == blocks
        assert ops.count(norm) == sum(isinstance(m, torch.nn.GroupNorm) for m in pipe.unet.modules())
        assert "Softmax" not in ops
        assert not [op for op in ops if "Sequence" in op]
        assert all(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.initializer)
        names = {n for n, _ in pipe.unet.named_parameters()}
        assert {tensor.name for tensor in graph.initializer} == names


def test_manifest_names_every_file(pair):
    bundle, manifest, _ = pair
    files = {f.relative_to(bundle).as_posix() for f in bundle.rglob("*") if f.is_file()}
    assert files == {"diffrt.json", *manifest.files}
    for path, entry in manifest.files.items():
        assert (bundle / path).stat().st_size == entry.bytes
    assert json.loads((bundle / "diffrt.json").read_text())["format"] == 1


def test_no_activation_is_split(pair):
    """GEGLU's two halves are two linear layers: what is split at load is the weight."""
    bundle, manifest, _ = pair
    for variant in manifest.components["unet"].variants:
        graph = onnx.load(bundle / variant.file, load_external_data=False).graph
        weights = {tensor.name for tensor in graph.initializer}
        halved = [node.input[0] for node in graph.node if node.op_type == "Split"]
        assert halved and set(halved) <= weights
        assert sum(name.endswith("ff.net.0.proj.weight") for name in halved) == len(halved) / 2
