"""Stable Diffusion 1.5's shapes with random weights: memory, disk and time of an export and of a picture.

    pytest -m slow tests/full_size -s

Prints the figures of the README. Needs 10 GB of memory and of disk, and some minutes. DIFFRT_FULL_SIZE names a folder
that keeps the checkpoint from one run to the next.
"""

import os
import sys
from pathlib import Path

import pytest

from benchmarks.checkpoints import write_random

from .measure import measured

pytestmark = pytest.mark.slow

GB = 1e9
PICTURE = """
import diffrt, sys
bundle, file, memory, size = sys.argv[1:]
pipe = diffrt.load(bundle, memory=memory)
pipe("a red apple", seed=7, num_inference_steps=2, height=int(size), width=int(size)).images[0].save(file)
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    kept = os.environ.get("DIFFRT_FULL_SIZE")
    folder = Path(kept) / "sd15" if kept else tmp_path_factory.mktemp("full") / "sd15"
    return folder if folder.exists() else write_random("sd15", folder)


@pytest.fixture(scope="module")
def folder(checkpoint, tmp_path_factory):
    """A place on the same file system as the checkpoint, so that weights can be hard-linked."""
    return checkpoint.parent if os.environ.get("DIFFRT_FULL_SIZE") else tmp_path_factory.mktemp("full")


def weight_bytes(checkpoint, part):
    return sum(f.stat().st_size for f in (checkpoint / part).glob("*.safetensors"))


def export(checkpoint, bundle, *options):
    return measured(sys.executable, "-m", "diffrt", "export", str(checkpoint), str(bundle), "--force", *options)


def test_export_without_certificate(checkpoint, folder):
    bundle = folder / "plain"
    seconds, peak, _ = export(checkpoint, bundle, "--no-verify")
    files = [f for f in bundle.rglob("*") if f.is_file()]
    added = sum(f.stat().st_size for f in files if f.stat().st_nlink == 1)
    print(f"\nexport, no certificate: {seconds:.0f} s, peak {peak:.2f} GB, {added / 1e6:.1f} MB added")
    assert peak <= 1.2
    assert added <= 40e6
    assert seconds <= 180


def test_export_with_certificate(checkpoint, folder):
    seconds, peak, _ = export(checkpoint, folder / "bundle")
    largest = weight_bytes(checkpoint, "unet") / GB
    print(f"\nexport with certificate: {seconds:.0f} s, peak {peak:.2f} GB (largest component {largest:.2f} GB)")
    assert peak <= largest + 1.5


def picture(folder, memory, size):
    file = str(folder / f"picture-{memory}-{size}.png")
    seconds, peak, _ = measured(sys.executable, "-c", PICTURE, str(folder / "bundle"), file, memory, str(size))
    return seconds, peak


def test_picture(checkpoint, folder):
    """The bundle of the test before."""
    in_use = (weight_bytes(checkpoint, "text_encoder") + weight_bytes(checkpoint, "unet")) / GB
    in_use += 49_490_199 * 4 / GB  # the decoder's share of the autoencoder
    seconds, peak = picture(folder, "keep", 512)
    print(f"\n512x512, 2 guided steps: {seconds:.0f} s, peak {peak:.2f} GB (weights in use {in_use:.2f} GB)")
    assert peak <= in_use + 1.0


def test_low_memory(checkpoint, folder):
    """The same bundle, a component at a time; then four times the pixels."""
    unet = weight_bytes(checkpoint, "unet") / GB
    seconds, small = picture(folder, "low", 512)
    print(f"\nmemory='low', 512x512, 2 guided steps: {seconds:.0f} s, peak {small:.2f} GB (the UNet's {unet:.2f} GB)")
    assert small <= unet + 0.8
    seconds, large = picture(folder, "low", 1024)
    print(f"memory='low', 1024x1024, 2 guided steps: {seconds:.0f} s, peak {large:.2f} GB")
    assert large <= small + 2.0
