"""`diffrt verify` finds every changed byte and every graph that answers otherwise than it did."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffrt.bundle import Bundle
from diffrt.errors import BundleError, NumericalError, ProviderError
from diffrt.manifest import MANIFEST
from diffrt.providers import PROVIDERS
from diffrt.safetensors_header import header_length
from diffrt.session import Session
from diffrt.verify import FileCheck, GraphCheck, verify

TOLERANCE, TILES_TOLERANCE = 1e-5, 2e-3


def entry(file):
    import hashlib

    content = file.read_bytes()
    header = hashlib.sha256(content[: header_length(file)]).hexdigest()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), "header_sha256": header}


def seal(bundle, **change):
    """Write the probe's entry, and what else changes, into the manifest."""
    record = json.loads((bundle / MANIFEST).read_text("utf-8"))
    record["files"]["probe.safetensors"] = entry(bundle / "probe.safetensors")
    (bundle / MANIFEST).write_text(json.dumps(record | {"probe": "probe.safetensors"} | change), "utf-8")


@pytest.fixture(scope="module")
def certified(sd1_bundle, tmp_path_factory):
    """The bundle with a probe recorded from its own graphs."""
    copy = shutil.copytree(sd1_bundle, tmp_path_factory.mktemp("certified") / "bundle")
    manifest, rng = Bundle.open(copy).manifest, np.random.default_rng(0)
    sizes = {"batch": 1, "sequence": 77, "h": 5, "w": 6, "height": 40, "width": 48}
    probe, certificate = {}, {}
    for name, component in manifest.components.items():
        certificate[name] = {v.file: {"tolerance": TOLERANCE, "relative_l2": 0.0} for v in component.variants}
        if component.tiling:
            certificate[name][component.tiling.tiled] = {"tolerance": TILES_TOLERANCE, "relative_l2": 0.0}
        for variant in component.variants:
            if variant.attention == "cuda":  # it does not run here
                continue
            feeds = {}
            for spec in component.inputs:
                shape = [sizes.get(axis, axis) for axis in spec.shape]
                whole = spec.dtype == "int64"
                feeds[spec.name] = rng.integers(0, 9, shape) if whole else rng.standard_normal(shape).astype(np.float32)
            outputs = Session(copy / variant.file, PROVIDERS["cpu"]).run(feeds)
            probe |= {f"{name}/{variant.file}/in/{k}": v for k, v in feeds.items()}
            probe |= {f"{name}/{variant.file}/out/{k}": v for k, v in outputs.items()}
    save_file(probe, copy / "probe.safetensors")
    seal(copy, certificate={"components": certificate})
    return copy


@pytest.fixture
def copy(certified, tmp_path):
    return shutil.copytree(certified, tmp_path / "bundle")


def test_every_file_and_every_graph(certified):
    bundle = Bundle.open(certified)
    checks = list(verify(bundle))
    assert [c.file for c in checks if isinstance(c, FileCheck)] == list(bundle.manifest.files)
    graphs = [c for c in checks if isinstance(c, GraphCheck)]
    in_tiles = {c.tiling.tiled: c.tiling.whole for c in bundle.manifest.components.values() if c.tiling}
    assert sorted([*(c.file for c in graphs), *in_tiles.values()]) == sorted(
        f for f in bundle.manifest.files if f.endswith(".onnx") and ".cuda." not in f
    )
    assert all(c.passed for c in graphs)
    assert all(c.relative_l2 == c.max_abs == 0 for c in graphs if c.file not in in_tiles)


def test_one_bit_of_the_weights(copy):
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(BundleError, match=r"diffusion_pytorch_model\.safetensors is damaged"):
        list(verify(Bundle.open(copy)))


def test_figures_and_failure(copy):
    """An answer that is off by a known amount is measured as that, and all graphs are reported before the error."""
    probe = load_file(copy / "probe.safetensors")
    key = "unet/unet/model.onnx/out/out_sample"
    probe[key] = probe[key] * np.float32(1 / 1.01)
    save_file(probe, copy / "probe.safetensors")
    seal(copy)
    seen = []
    with pytest.raises(NumericalError, match=r"1 graphs are outside tolerance here, unet/model\.onnx.*0\.01"):
        seen.extend(check for check in collect(verify(Bundle.open(copy)), seen))
    graphs = {c.file: c for c in seen if isinstance(c, GraphCheck)}
    assert len(graphs) == 9
    assert graphs["unet/model.onnx"].relative_l2 == pytest.approx(0.01, rel=1e-3)
    assert not graphs["unet/model.onnx"].passed
    assert graphs["vae/decoder.onnx"].passed


def collect(checks, seen):
    for check in checks:
        seen.append(check)
    return ()


def test_a_probe_of_nan_does_not_pass(copy):
    probe = load_file(copy / "probe.safetensors")
    probe["unet/unet/model.onnx/out/out_sample"][:] = np.nan
    save_file(probe, copy / "probe.safetensors")
    seal(copy)
    with pytest.raises(NumericalError, match="outside tolerance"):
        list(verify(Bundle.open(copy)))


def test_probe_and_certificate_must_fit(copy):
    record = json.loads((copy / MANIFEST).read_text("utf-8"))
    seal(copy, certificate={"components": {}})
    with pytest.raises(BundleError, match="no tolerance for text_encoder"):
        list(verify(Bundle.open(copy)))
    probe = load_file(copy / "probe.safetensors")
    save_file({k: v for k, v in probe.items() if "/in/" not in k}, copy / "probe.safetensors")
    seal(copy, certificate=record["certificate"])
    with pytest.raises(BundleError, match="the probe has nothing under text_encoder"):
        list(verify(Bundle.open(copy)))


def test_without_a_probe_only_files(sd1_bundle):
    assert all(isinstance(check, FileCheck) for check in verify(Bundle.open(sd1_bundle)))


def test_unknown_provider(sd1_bundle):
    with pytest.raises(ProviderError):
        list(verify(Bundle.open(sd1_bundle), "cpuu"))
