"""The manifest: what is written is read back, and nothing else is."""

import copy
import json

import pytest

from diffrt.errors import BundleError
from diffrt.manifest import Manifest

GOOD = {
    "format": 1,
    "generator": "diffrt 0.1.0",
    "family": "stable-diffusion",
    "tasks": ["text_to_image"],
    "defaults": {
        "height": 512, "width": 512, "num_inference_steps": 50, "guidance_scale": 7.5, "scheduler": "PNDMScheduler",
    },
    "latents": {"channels": 4, "scale_factor": 8},
    "denoiser": "unet",
    "conditions": {"encoder_hidden_states": ["text_encoder.last_hidden_state"]},
    "tokenizers": {"text_encoder": {"folder": "tokenizer", "max_length": 77, "pad": "!"}},
    "classes": [],
    "even_sigmas": False,
    "zero_negative": False,
    "preview": {"matrix": [[0.1, 0.2, 0.3]] * 4, "bias": [0.0, 0.1, 0.2]},
    "files": {
        "unet/model.onnx": {"bytes": 3, "sha256": "ab" * 32},
        "unet/model.safetensors": {"bytes": 30, "sha256": "cd" * 32, "header_sha256": "ef" * 32},
        "probe.safetensors": {"bytes": 30, "sha256": "cd" * 32, "header_sha256": "ef" * 32},
    },
    "components": {
        "unet": {
            "inputs": [{"name": "sample", "dtype": "float32", "shape": ["batch", 4, "h", "w"]}],
            "outputs": [{"name": "out_sample", "dtype": "float32", "shape": ["batch", 4, "h", "w"]}],
            "variants": [{"file": "unet/model.onnx", "precision": "fp32", "attention": "ort", "static": "512x768"}],
        },
        "text_encoder": {
            "inputs": [{"name": "input_ids", "dtype": "int64", "shape": ["batch", "sequence"]}],
            "outputs": [{"name": "last_hidden_state", "dtype": "float32", "shape": ["batch", "sequence", 8]}],
            "variants": [{"file": "unet/model.onnx", "precision": "fp32", "attention": "ort", "static": None}],
        },
    },
    "certificate": {"anything": [1, {"goes": None}]},
    "probe": "probe.safetensors",
}  # fmt: skip

MISSING = object()
BAD = [
    ("format", MISSING, "no format number"),
    ("format", "1", "no format number"),
    ("format", True, "no format number"),
    ("format", 2, "pip install -U diffrt"),
    ("family", "", "must be text"),
    ("family", 3, "must be text"),
    ("family", MISSING, "lacks the key 'family'"),
    ("surprise", 1, "unknown key 'surprise'"),
    ("tasks", [], "tasks"),
    ("tasks", "text_to_image", "tasks"),
    ("defaults.height", 0, "defaults.height"),
    ("defaults.height", 10**30, "defaults.height"),
    ("defaults.height", 511, "multiples of 8"),
    ("defaults.width", 512.0, "defaults.width"),
    ("defaults.num_inference_steps", True, "defaults.num_inference_steps"),
    ("defaults.guidance_scale", float("nan"), "defaults.guidance_scale"),
    ("defaults.guidance_scale", 10**400, "defaults.guidance_scale"),
    ("defaults.extra", 1, "unknown key"),
    ("latents.channels", "4", "latents.channels"),
    ("latents.scale_factor", 0, "latents.scale_factor"),
    ("zero_negative", 0, "true or false"),
    ("denoiser", "transformer", "not among its components"),
    ("conditions", {"encoder_hidden_states": ["text_encoder"]}, "component.output"),
    ("conditions", {"encoder_hidden_states": ["text_encoder.pooler_output"]}, "which no component gives"),
    ("conditions", {"encoder_hidden_states": ["unet.out_sample"]}, "tokenizers lacks 'unet'"),
    ("tokenizers.text_encoder.folder", "../tokenizer", "tokenizers['text_encoder'].folder"),
    ("tokenizers.text_encoder.max_length", 10**9, "tokenizers['text_encoder'].max_length"),
    ("preview.matrix", [[0.1, 0.2, 0.3]], "1 rows for 4 channels"),
    ("preview.matrix", [[0.1, 0.2]] * 4, "preview.matrix"),
    ("preview.bias", [0, 0, float("inf")], "preview.bias"),
    ("files", [], "files"),
    ("components.unet", {}, "lacks the key"),
    ("components.unet.variants", [], "variants"),
    ("components.unet.inputs", [{"name": "x", "dtype": "float16", "shape": []}], "float32 or int64"),
    ("components.unet.inputs", [{"name": "x", "dtype": "float32", "shape": [0]}], "shape"),
    ("components.unet.overflows", ["conv"], "overflows"),
    ("components.unet.overflows", {"conv": float("inf")}, "overflows['conv']"),
    ("certificate", 3, "certificate"),
    ("probe", "elsewhere.safetensors", "not among its files"),
]  # fmt: skip

PATHS = [
    "../x", "a/../../x", "/etc/passwd", "a//b", "./a", "a/.", "", "a\\b", "C:/x", "a\0b", "a/", "..", "a\nb", "*",
]  # fmt: skip


def edited(path, value):
    record = copy.deepcopy(GOOD)
    *parents, last = path.split(".")
    place = record
    for key in parents:
        place = place[key]
    if value is MISSING:
        del place[last]
    else:
        place[last] = value
    return json.dumps(record)


def test_round_trip():
    manifest = Manifest.loads(json.dumps(GOOD))
    assert json.loads(manifest.dumps()) == GOOD
    assert Manifest.loads(manifest.dumps()) == manifest
    assert manifest.components["unet"].variants[0].size == (512, 768)
    assert manifest.components["unet"].inputs[0].shape == ("batch", 4, "h", "w")


def test_optional_parts():
    for key in ("certificate", "probe", "preview"):
        assert getattr(Manifest.loads(edited(key, None)), key) is None
    for overflows in ({}, {"conv_in Conv conv2d": 70000.0}):
        text = edited("components.unet.overflows", overflows)
        assert json.loads(Manifest.loads(text).dumps()) == json.loads(text)


@pytest.mark.parametrize(("path", "value", "says"), BAD, ids=[f"{p}={str(v)[:20]}" for p, v, _ in BAD])
def test_what_does_not_fit_is_named(path, value, says):
    with pytest.raises(BundleError) as caught:
        Manifest.loads(edited(path, value))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", PATHS)
def test_paths_stay_inside(path):
    record = copy.deepcopy(GOOD)
    record["files"][path] = record["files"]["unet/model.onnx"]
    with pytest.raises(BundleError, match=r"relative path inside the bundle|must be text"):
        Manifest.loads(json.dumps(record))
    with pytest.raises(BundleError):
        Manifest.loads(json.dumps(GOOD).replace('"file": "unet/model.onnx"', f'"file": {json.dumps(path)}'))


@pytest.mark.parametrize("static", ["512", "512x", "0x512", "-1x5", "512x512x3", "9999999x8", "５１２x512"])
def test_static_sizes(static):
    with pytest.raises(BundleError, match="static"):
        Manifest.loads(json.dumps(GOOD).replace("512x768", static))


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{", '"format"', "[" * 100_000, '{"format": 1' + " " * 9, "1" * 5000]
)
def test_not_a_manifest(text):
    with pytest.raises(BundleError, match=r"diffrt\.json is not"):
        Manifest.loads(text)
