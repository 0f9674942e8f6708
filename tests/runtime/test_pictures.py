"""Input pictures and masks: prepared as diffusers prepares them, and refused with the reason."""

import struct
import zlib

import numpy as np
import pytest
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

import diffrt
from diffrt.cli import run
from diffrt.errors import InvalidArgument
from diffrt.pictures import colours, masks


@pytest.fixture(scope="module")
def pipe(sd1_bundle):
    return diffrt.load(sd1_bundle)


def photo(width=61, height=47, mode="RGB"):
    levels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels).convert(mode)


def bomb(path):
    """A PNG of 67 bytes that says it has 900 million pixels."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    )
    return path


@pytest.mark.parametrize("size", [(40, 56), (48, 64), (104, 88)])
def test_pictures_are_prepared_as_in_the_reference(size):
    expected = VaeImageProcessor(vae_scale_factor=8).preprocess(photo(), *size).numpy()
    np.testing.assert_allclose(colours([photo()], *size), expected, atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "RGB", "1"])
@pytest.mark.parametrize("size", [(40, 56), (104, 88)])
def test_masks_are_prepared_as_in_the_reference(size, mode):
    mask = photo(mode=mode)
    reference = VaeImageProcessor(8, do_normalize=False, do_binarize=True, do_convert_grayscale=True)
    np.testing.assert_array_equal(masks([mask], *size), reference.preprocess(mask, *size).numpy())


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"image": photo(), "mask_image": photo(60, 47)}, ["47x60", "47x61"]),
        ({"image": photo(), "strength": 1.2}, ["strength is 1.2", "0", "1"]),
        ({"image": photo(), "strength": -0.1}, ["strength is -0.1"]),
        ({"image": photo(), "strength": float("nan")}, ["strength"]),
        ({"mask_image": photo()}, ["mask_image", "without an image"]),
        ({"strength": 0.5}, ["strength", "without an image"]),
        ({"image": []}, ["no picture"]),
        ({"image": [photo(), photo()]}, ["2 pictures for 1 prompts"]),
        ({"image": [photo(), photo(60, 47)], "prompt": ["a", "b"]}, ["47x60", "47x61"]),
        ({"image": photo(7, 47)}, ["47x7", "8x8"]),
        ({"image": np.zeros((0, 8, 3), np.uint8)}, ["empty", "0x8"]),
        ({"image": np.zeros((8, 8), np.uint8)}, ["[8, 8]", "[H,W,3]"]),
        ({"image": np.zeros((8, 8, 3), np.int64)}, ["int64", "uint8"]),
        ({"image": np.full((8, 8, 3), 2.0)}, ["outside 0 to 1"]),
        ({"image": np.full((8, 8, 3), np.nan)}, ["outside 0 to 1"]),
        ({"image": 7}, ["7", "a path, a Pillow image or an array"]),
        ({"image": photo(), "mask_image": photo(), "strength": 0.1, "num_inference_steps": 5}, ["leaves none"]),
    ],
)
def test_what_is_refused(pipe, given, says):
    with pytest.raises(InvalidArgument) as refusal:
        pipe(**{"prompt": "a", "num_inference_steps": 2} | given)
    message = str(refusal.value)
    assert "\n" not in message
    for each in says:
        assert each in message


def test_an_inpainting_model_needs_a_mask(inpaint_folder):
    pipe = diffrt.load(inpaint_folder / "bundle")
    for given in ({}, {"image": photo()}):
        with pytest.raises(InvalidArgument, match="give it an image and a mask_image"):
            pipe("a", **given)


def test_files_that_are_refused(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no picture")
    photo().save("whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    bomb(tmp_path / "bomb.png")
    photo(16, 16).save("mask.png")
    told = {
        "empty.png": "no picture", "text.png": "no picture", "cut.png": "cannot be read", "bomb.png": "pixels",
        "missing.png": "No such file",
    }  # fmt: skip
    for name, says in told.items():
        assert run(["generate", "a", "--image", name, "-o", "out.png", "--steps", "1"]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert name in err and says in err
    assert run(["generate", "a", "--image", "whole.png", "--mask", "mask.png", "--steps", "1"]) == 2
    assert "16x16" in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()


def test_the_command_line_starts_from_a_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    photo(70, 70).save("in.png")
    Image.new("L", (70, 70), 255).save("mask.png")
    given = ["--steps", "4", "--seed", "3", "--quiet", "--memory", "low"]
    assert run(["generate", "a cat", "--image", "in.png", "--strength", "0.5", "-o", "a.png", *given]) == 0
    assert run(["generate", "a cat", "--image", "in.png", "--mask", "mask.png", "-o", "b.png", *given]) == 0
    pipe, arguments = diffrt.load("emoji"), {"num_inference_steps": 4, "seed": 3}
    for name, more in (("a.png", {"strength": 0.5}), ("b.png", {"mask_image": tmp_path / "mask.png"})):
        expected = pipe("a cat", image=tmp_path / "in.png", **more, **arguments).images[0]
        with Image.open(name) as written:
            assert written.size == (64, 64)
            assert written.tobytes() == expected.tobytes()
