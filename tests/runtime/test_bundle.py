"""Opening a bundle: a good one opens wherever it lies; whatever was changed in it is named."""

import hashlib
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest

import diffrt
from diffrt.bundle import Bundle
from diffrt.errors import BundleError, InvalidArgument
from diffrt.manifest import MANIFEST, Variant

UNET, WEIGHTS = "unet/model.onnx", "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def copy(sd1_bundle, tmp_path):
    return shutil.copytree(sd1_bundle, tmp_path / "bundle")


def edit(bundle, change):
    file = bundle / MANIFEST
    record = json.loads(file.read_text("utf-8"))
    change(record)
    file.write_text(json.dumps(record), "utf-8")


def rehash(bundle, name):
    """Make the manifest agree with a changed graph, as someone who means harm would."""
    content = (bundle / name).read_bytes()
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit(bundle, lambda record: record["files"].update({name: entry}))


def refused(bundle, *says):
    with pytest.raises(BundleError) as caught:
        Bundle.open(bundle)
    message = str(caught.value)
    assert "\n" not in message
    for each in says:
        assert each in message


def test_opens(sd1_bundle):
    bundle = Bundle.open(sd1_bundle)
    assert bundle.manifest.family == "stable-diffusion"
    assert bundle.json("scheduler/scheduler_config.json")["_class_name"] == "PNDMScheduler"
    with pytest.raises(BundleError, match=r"has no scheduler/other\.json"):
        bundle.path("scheduler/other.json")


def test_opens_from_a_hub_cache(sd1_bundle, tmp_path):
    """A snapshot is a folder of links to blobs named by hash."""
    (tmp_path / "blobs").mkdir()
    for file in (f for f in sd1_bundle.rglob("*") if f.is_file()):
        blob = tmp_path / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copy(file, blob)
        link = tmp_path / "snapshots" / "0123" / file.relative_to(sd1_bundle)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    snapshot = tmp_path / "snapshots" / "0123"
    assert Bundle.open(snapshot).manifest == Bundle.open(sd1_bundle).manifest
    arguments = {"num_inference_steps": 2, "seed": 1, "output_type": "np"}
    expected = diffrt.load(sd1_bundle)("a", **arguments).images
    np.testing.assert_array_equal(diffrt.load(snapshot)("a", **arguments).images, expected)


def test_a_checkpoint_says_how_to_export(sd1_checkpoint):
    refused(sd1_checkpoint, "is a checkpoint, not a bundle", f"diffrt export {sd1_checkpoint}")


def test_no_bundle(tmp_path):
    refused(tmp_path, "no bundle", MANIFEST)
    refused(tmp_path / "nowhere", "no bundle")


def test_the_manifest_itself(copy):
    edit(copy, lambda record: record.update(format=99))
    refused(copy, str(copy), "format 99", "pip install -U diffrt")
    (copy / MANIFEST).write_bytes(b"\xff\xfe{}")
    refused(copy, "not UTF-8")
    with (copy / MANIFEST).open("wb") as file:
        file.truncate(17 << 20)
    refused(copy, "at most")


@pytest.mark.parametrize("name", [UNET, WEIGHTS, "tokenizer/vocab.json", "scheduler/scheduler_config.json"])
def test_files_that_changed(copy, name):
    file = copy / name
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    refused(copy, name, "bytes")
    file.write_bytes(content[:20] + bytes([content[20] ^ 1]) + content[21:])
    refused(copy, name, "sha256")
    file.unlink()
    refused(copy, name, "missing")
    file.mkdir()
    refused(copy, name, "missing")


def test_weights_themselves_are_not_read(copy):
    with (copy / WEIGHTS).open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\0\0\xc0\x7f")
    Bundle.open(copy)


@pytest.mark.parametrize(
    ("key", "value"),
    [("offset", "+4"), ("length", "-4"), ("location", "../vae/diffusion_pytorch_model.safetensors"),
     ("location", "../../outside.safetensors"), ("location", "/etc/passwd"), ("location", "config.json"),
     ("location", ""), ("location", "*/_ORT_MEM_ADDR_/*")],
)  # fmt: skip
def test_graphs_that_read_elsewhere(copy, key, value):
    model = onnx.load(copy / UNET, load_external_data=False)
    tensor = next(t for t in model.graph.initializer if len(t.dims) == 4)
    for entry in tensor.external_data:
        if entry.key == key:
            entry.value = str(int(entry.value) + int(value)) if value[0:1] in ("+", "-") else value
    (copy / UNET).write_bytes(model.SerializeToString())
    rehash(copy, UNET)
    refused(copy, UNET, tensor.name)


@pytest.mark.parametrize("change", ["dtype", "shape", "name"])
def test_graphs_that_read_otherwise(copy, change):
    model = onnx.load(copy / UNET, load_external_data=False)
    tensor = next(t for t in model.graph.initializer if len(t.dims) == 2 and t.dims[0] != t.dims[1])
    if change == "dtype":
        tensor.data_type = onnx.TensorProto.INT32
    elif change == "shape":
        tensor.dims[:] = tensor.dims[::-1]
    else:
        tensor.name = "other"
    (copy / UNET).write_bytes(model.SerializeToString())
    rehash(copy, UNET)
    refused(copy, UNET, "no such tensor" if change == "name" else "its header has")


def test_damaged_graph_with_a_right_hash(copy):
    (copy / UNET).write_bytes((copy / UNET).read_bytes()[:-100])
    rehash(copy, UNET)
    refused(copy, UNET, "damaged")


def test_big_text_files(copy):
    with (copy / "tokenizer/vocab.json").open("wb") as file:
        file.truncate(200 << 20)  # sparse
    edit(copy, lambda record: record["files"]["tokenizer/vocab.json"].update(bytes=200 << 20))
    refused(copy, "tokenizer/vocab.json", "at most")


def test_choice_of_variant(sd1_bundle):
    bundle = Bundle.open(sd1_bundle)
    unet = bundle.manifest.components["unet"]
    variants = [
        Variant(f"unet/{a}{s or ''}.onnx", "fp32", a, s)
        for s in (None, "512x768")
        for a in ("portable", "ort", "sliced")
    ]

    def with_variants(*chosen):
        components = {**bundle.manifest.components, "unet": replace(unet, variants=chosen)}
        return replace(bundle, manifest=replace(bundle.manifest, components=components))

    every = with_variants(*variants)
    assert every.variant("unet", ("ort", "portable")).file == "unet/ort.onnx"
    assert every.variant("unet", ("sliced", "portable")).file == "unet/sliced.onnx"
    assert every.variant("unet", ("ort",), (512, 768)).file == "unet/ort512x768.onnx"
    assert every.variant("unet", ("ort",), (768, 512)).file == "unet/ort.onnx"
    assert with_variants(variants[2]).variant("unet", ("ort", "portable")).file == "unet/sliced.onnx"
    with pytest.raises(InvalidArgument, match="512x768"):
        with_variants(*variants[3:]).variant("unet", ("ort",), (64, 64))


def test_missing_components_and_outputs(copy):
    edit(copy, lambda record: record["components"]["vae_decoder"]["outputs"][0].update(name="other"))
    with pytest.raises(BundleError, match="vae_decoder gives no sample"):
        diffrt.load(copy)
    edit(copy, lambda record: record.update(tasks=["text_to_music"]))
    with pytest.raises(BundleError, match="is for text_to_music"):
        diffrt.load(copy)
    edit(copy, lambda record: record["components"].pop("unet"))
    with pytest.raises(BundleError, match="denoiser is 'unet', which is not among its components"):
        diffrt.load(copy)
