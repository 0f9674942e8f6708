"""Pictures: decoded arrays to bytes, previews, and files that carry the parameters they were made with.

A PNG holds the parameters twice: the text chunk `parameters`, in the lines people know from other programs,
and the chunk `diffrt`, as JSON. JPEG and WebP hold that JSON as EXIF image description.
"""

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffrt.errors import InvalidArgument

FORMATS: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG"},
    ".jpg": {"format": "JPEG", "quality": 95},
    ".jpeg": {"format": "JPEG", "quality": 95},
    ".webp": {"format": "WEBP", "lossless": True},
}
EXIF_IMAGE_DESCRIPTION = 0x010E
LABELS = {"num_inference_steps": "Steps", "scheduler": "Sampler", "guidance_scale": "CFG scale"}
UNLABELLED = {"prompt", "negative_prompt", "height", "width"}  # lines of their own, and Size


def to_uint8(decoded: NDArray[np.float32]) -> NDArray[np.uint8]:
    """[B,3,H,W] f32 in [-1,1], clipped and rounded half to even -> [B,H,W,3] u8."""
    unit = np.clip(decoded * np.float32(0.5) + np.float32(0.5), 0, 1)
    return np.ascontiguousarray((unit * np.float32(255)).round().astype(np.uint8).transpose(0, 2, 3, 1))


def to_pil(pictures: NDArray[np.uint8]) -> list[Image.Image]:
    """[B,H,W,3] u8 -> one picture each; [B,H,W,1] -> grey ones."""
    return [Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture) for picture in pictures]


def preview(
    latents: NDArray[np.float32], matrix: Sequence[Sequence[float]], bias: Sequence[float]
) -> NDArray[np.uint8]:
    """[B,C,h,w] f32 latents -> [B,h,w,3] u8: a linear stand-in for the decoder, at the latents' own size.

    matrix [C][3] and bias [3] map a latent to the decoder's RGB in [-1,1] by least squares.
    """
    rgb = np.einsum("bchw,cd->bdhw", latents, np.asarray(matrix, np.float32))
    return to_uint8(rgb + np.asarray(bias, np.float32)[:, None, None])


def numbered(path: str | Path, count: int) -> list[Path]:
    """Where count pictures go: a.png for one, a-0.png, a-1.png ... for more."""
    path = Path(path)
    return [path] if count == 1 else [path.with_stem(f"{path.stem}-{i}") for i in range(count)]


def checked_output(path: str | Path) -> Path:
    """The path, if its folder is there and its suffix in FORMATS; else InvalidArgument: ask this first."""
    path = Path(path)
    if not path.parent.is_dir():
        raise InvalidArgument(f"no folder {str(path.parent)!r} to write {path.name!r} to: create it first")
    if path.suffix.lower() not in FORMATS:
        raise InvalidArgument(f"cannot write {path.name!r}: the name must end in {', '.join(FORMATS)}")
    return path


def save(image: Image.Image, path: str | Path, parameters: Mapping[str, Any]) -> None:
    """Write the picture with its parameters (JSON values): wholly, or not at all."""
    path = checked_output(path)
    options = dict(FORMATS[path.suffix.lower()])
    record = json.dumps(dict(parameters))
    if options["format"] == "PNG":
        from PIL import PngImagePlugin

        options["pnginfo"] = chunks = PngImagePlugin.PngInfo()
        chunks.add_text("parameters", readable(parameters, image.size))
        chunks.add_text("diffrt", record)
    else:
        options["exif"] = exif = Image.Exif()
        exif[EXIF_IMAGE_DESCRIPTION] = record
    partial = path.with_name(f"{path.name}.partial-{secrets.token_hex(4)}")
    try:
        with partial.open("xb") as file:
            image.save(file, **options)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def readable(parameters: Mapping[str, Any], size: tuple[int, int]) -> str:
    """The prompt, `Negative prompt: ...`, then `Steps: 20, Sampler: ..., Size: 512x512`: a line each."""
    lines = [str(parameters.get("prompt") or "")]
    if parameters.get("negative_prompt"):
        lines.append(f"Negative prompt: {parameters['negative_prompt']}")
    rest = {LABELS.get(k) or k.replace("_", " ").capitalize(): v for k, v in parameters.items() if k not in UNLABELLED}
    rest["Size"] = f"{size[0]}x{size[1]}"
    lines.append(", ".join(f"{label}: {_quoted(value)}" for label, value in rest.items() if value is not None))
    return "\n".join(lines)


def _quoted(value: Any) -> str:
    text = str(value)
    return json.dumps(text) if any(mark in text for mark in ",:\n") else text


def read_parameters(path: str | Path) -> dict[str, Any]:
    """The parameters that `save` wrote into a picture. InvalidArgument where there are none."""
    try:
        with Image.open(path) as image:
            record = image.info.get("diffrt") or image.getexif().get(EXIF_IMAGE_DESCRIPTION)
    except OSError as error:
        raise InvalidArgument(f"cannot read the picture {str(path)!r}: {error}") from None
    try:
        parameters = json.loads(record or "")
    except (TypeError, ValueError):
        parameters = None
    if not isinstance(parameters, dict):
        raise InvalidArgument(f"{str(path)!r} carries no parameters: give a picture that diffrt wrote")
    return parameters
