"""diffrt.image against diffusers' post-processing, and what is written is what is read."""

import os

import numpy as np
import pytest
from PIL import Image

from diffrt import image
from diffrt.errors import InvalidArgument

PARAMETERS = {
    "prompt": 'a "red" apple,\nµ and 苹果 🍎',
    "negative_prompt": "blurry",
    "num_inference_steps": 20,
    "guidance_scale": 5.0,
    "seed": 2**63,
    "rng": "torch-cpu",
    "scheduler": "DDIMScheduler",
    "height": 4,
    "width": 6,
    "eta": None,
    "note": "a: b, c",
}


@pytest.fixture
def picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return image.to_pil(pixels[None])[0]


def test_to_uint8_equals_diffusers():
    torch = pytest.importorskip("torch")
    from diffusers.image_processor import VaeImageProcessor

    # every level, every tie between two levels and its float32 neighbours, values out of range
    levels = np.linspace(-1, 1, 511, dtype=np.float32)
    near = np.concatenate([np.nextafter(levels, np.float32(-2)), levels, np.nextafter(levels, np.float32(2))])
    noise = 1.5 * np.random.default_rng(0).standard_normal(2 * 3 * 64 * 65 - near.size)
    decoded = np.concatenate([near, noise]).astype(np.float32).reshape(2, 3, 64, 65)
    theirs = VaeImageProcessor().postprocess(torch.from_numpy(decoded), output_type="pil")
    ours = image.to_uint8(decoded)
    assert ours.dtype == np.uint8
    assert {0, 255} <= set(ours.ravel())
    np.testing.assert_array_equal(ours, np.stack([np.asarray(each) for each in theirs]))
    for mine, reference in zip(image.to_pil(ours), theirs, strict=True):
        assert (mine.mode, mine.size, mine.tobytes()) == ("RGB", (65, 64), reference.tobytes())


def test_preview_is_the_linear_map():
    latents = np.zeros((2, 4, 3, 5), np.float32)
    latents[1, 2, 1, 4] = 1
    matrix = [[0, 0, 0], [0, 0, 0], [1, -1, 0.5], [0, 0, 0]]
    got = image.preview(latents, matrix, [0, 0, -0.5])
    assert got.shape == (2, 3, 5, 3)
    assert got[1, 1, 4].tolist() == [255, 0, 128]
    assert (got.reshape(-1, 3) == [128, 128, 64]).all(axis=1).sum() == 2 * 3 * 5 - 1


@pytest.mark.parametrize("suffix", [*image.FORMATS, ".PNG"])
def test_parameters_come_back(picture, tmp_path, suffix):
    path = tmp_path / f"apple{suffix}"
    path.write_bytes(b"an older file")
    image.save(picture, path, PARAMETERS)
    assert image.read_parameters(path) == PARAMETERS
    assert os.listdir(tmp_path) == [path.name]
    with Image.open(path) as back:
        assert back.size == picture.size
        if suffix in (".png", ".webp"):
            assert back.convert("RGB").tobytes() == picture.tobytes()


def test_png_text_is_readable_by_others(picture, tmp_path):
    image.save(picture, tmp_path / "a.png", PARAMETERS)
    with Image.open(tmp_path / "a.png") as back:
        assert set(back.text) == {"parameters", "diffrt"}
        assert back.text["parameters"].splitlines() == [
            'a "red" apple,',
            "µ and 苹果 🍎",
            "Negative prompt: blurry",
            "Steps: 20, CFG scale: 5.0, Seed: 9223372036854775808, Rng: torch-cpu, Sampler: DDIMScheduler, "
            'Note: "a: b, c", Size: 6x4',
        ]


def test_a_failed_write_leaves_the_old_file(picture, tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    image.save(picture, path, {"seed": 1})

    def disk_full(self, file, **options):
        file.write(b"half a picture")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", disk_full)
    with pytest.raises(OSError, match="No space left"):
        image.save(picture, path, {"seed": 2})
    with pytest.raises(TypeError):
        image.save(picture, path, {"seed": object()})
    assert os.listdir(tmp_path) == ["a.png"]
    assert image.read_parameters(path) == {"seed": 1}


def test_numbered(tmp_path):
    assert image.numbered(tmp_path / "a.png", 1) == [tmp_path / "a.png"]
    names = ["a.b-0.png", "a.b-1.png", "a.b-2.png"]
    assert image.numbered(tmp_path / "a.b.png", 3) == [tmp_path / name for name in names]


def test_refused_outputs(picture, tmp_path):
    with pytest.raises(InvalidArgument, match=r"no folder .*missing.*create it"):
        image.save(picture, tmp_path / "missing" / "a.png", {})
    for name in ("a.gif", "a", "a.png.txt"):
        with pytest.raises(InvalidArgument, match=r"\.png, \.jpg, \.jpeg, \.webp"):
            image.checked_output(tmp_path / name)
    assert image.checked_output("a.png").name == "a.png"
    assert os.listdir(tmp_path) == []


def test_refused_inputs(picture, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    for name in ("none.png", "text.png"):
        with pytest.raises(InvalidArgument, match=f"cannot read the picture .*{name}"):
            image.read_parameters(tmp_path / name)
    holiday = Image.Exif()
    holiday[image.EXIF_IMAGE_DESCRIPTION] = "a holiday"
    for name, exif in [("bare.png", Image.Exif()), ("bare.jpg", Image.Exif()), ("other.jpg", holiday)]:
        picture.save(tmp_path / name, exif=exif)
        with pytest.raises(InvalidArgument, match=f"{name}.* carries no parameters"):
            image.read_parameters(tmp_path / name)
