"""Prepared graphs: the same pictures from the cache, for the same bundle, provider and machine alone."""

import hashlib
import shutil

import numpy as np
import pytest

import diffrt
from diffrt import prepared
from diffrt.bundle import Bundle
from diffrt.cli import run
from diffrt.errors import BundleError
from diffrt.providers import PROVIDERS

PROVIDER_NAMES = ("cpu", "openvino-fp32")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def draw(bundle, provider):
    return diffrt.load(bundle, provider=provider)("a red apple", seed=7, num_inference_steps=2, output_type="np").images


def hashes(folder):
    return {f: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.mark.parametrize("name", PROVIDER_NAMES)
def test_pictures_from_what_is_kept_are_the_same(sd1_bundle, cache, name):
    before, bundle = hashes(sd1_bundle), Bundle.open(sd1_bundle)
    pictures = draw(sd1_bundle, name)
    kept = list(prepared.prepare(bundle, PROVIDERS[name]))
    assert {each.file.partition("/")[0] for each in kept} == {"text_encoder", "unet", "vae"}
    assert all(cache in each.folder.parents and each.bytes > 0 for each in kept)
    np.testing.assert_array_equal(draw(sd1_bundle, name), pictures)
    assert hashes(sd1_bundle) == before  # nothing is written to a bundle


def test_what_is_kept_is_what_runs(sd1_bundle):
    """With a kept graph that cannot be read, drawing fails: it is not the bundle's own that is opened."""
    for each in prepared.prepare(Bundle.open(sd1_bundle), PROVIDERS["cpu"]):
        (each.folder / "graph.onnx").write_bytes(b"damaged")
    with pytest.raises(BundleError, match="cannot be loaded"):
        draw(sd1_bundle, "cpu")
    assert run(["prepare", str(sd1_bundle), "--remove"]) == 0
    draw(sd1_bundle, "cpu")


def test_other_weights_and_other_providers_have_other_places(sd1_bundle, sd2_bundle, tmp_path):
    bundle = Bundle.open(sd1_bundle)
    variant = bundle.component("unet").variants[0]
    places = {prepared.place(bundle, variant, PROVIDERS[name]) for name in PROVIDER_NAMES}
    other = shutil.copytree(sd1_bundle, tmp_path / "other")
    text = (other / "diffrt.json").read_text("utf-8")
    weights = bundle.manifest.files["unet/diffusion_pytorch_model.safetensors"].sha256
    (other / "diffrt.json").write_text(text.replace(weights, "0" * 64), "utf-8")  # as if they had been trained further
    places.add(prepared.place(Bundle.open(other), variant, PROVIDERS["cpu"]))
    assert len(places) == 3


def test_the_command(sd1_bundle, capsys):
    assert run(["prepare", str(sd1_bundle)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and all(" bytes  " in line for line in lines)
    assert run(["prepare", str(sd1_bundle), "--remove"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert run(["prepare", str(sd1_bundle), "--provider", "tpu"]) == 2
    assert "unknown provider 'tpu'" in capsys.readouterr().err
