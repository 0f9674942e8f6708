"""diffrt.json, the manifest of a bundle, as frozen dataclasses: what is in it, and what it was checked against.

Reading is strict: a wrong type, an unknown or missing key, or a path that leaves the folder is a BundleError.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from diffrt.errors import BundleError

FORMAT = 1
MANIFEST = "diffrt.json"

Parse = Callable[[Any, str], Any]  # (JSON value, where it stands) -> what it means


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a component. A string in `shape` names an axis of any size; equal names, equal sizes."""

    name: str
    dtype: str  # as NumPy spells it: float32, int64
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Variant:
    """One graph of a component; all variants share its weights."""

    file: str
    precision: str
    attention: str
    static: str | None = None  # "HxW" in pixels where the graph has a fixed size

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) in pixels of a static graph."""
        if self.static is None:
            return None
        height, width = map(int, self.static.split("x"))
        return height, width


@dataclass(frozen=True)
class ComponentSpec:
    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class FileEntry:
    bytes: int
    sha256: str
    header_sha256: str | None = None  # safetensors only: of the bytes before the tensors (length and JSON header)


@dataclass(frozen=True)
class Defaults:
    height: int
    width: int
    num_inference_steps: int
    guidance_scale: float
    scheduler: str


@dataclass(frozen=True)
class Manifest:
    generator: str  # the program that wrote it, with its version
    family: str
    tasks: tuple[str, ...]
    defaults: Defaults
    latents: Mapping[str, Any]  # channels; scale_factor: pixels per latent
    tokenizer: Mapping[str, Any]  # folder, max_length, pad (a token)
    preview: Mapping[str, Any] | None  # matrix [C][3], bias [3]: latents to the decoder's RGB in [-1,1]
    files: Mapping[str, FileEntry]  # every file of the bundle but the manifest
    components: Mapping[str, ComponentSpec]
    certificate: Mapping[str, Any] | None
    probe: str | None  # inputs and outputs of every graph, for `diffrt verify`

    def dumps(self) -> str:
        record = {"format": FORMAT, **asdict(self)}
        record["files"] = {
            path: {k: v for k, v in entry.items() if v is not None} for path, entry in record["files"].items()
        }
        for component in record["components"].values():
            del component["name"]
        return json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @staticmethod
    def loads(content: str) -> "Manifest":
        """Raises BundleError, one line that says what is wrong and where."""
        try:
            record = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{MANIFEST} is not JSON: {error}") from None
        version = record.get("format") if isinstance(record, dict) else None
        if type(version) is not int or version < 1:
            raise BundleError(f"{MANIFEST} is not a manifest: it has no format number; export the checkpoint again")
        if version > FORMAT:
            raise BundleError(f"{MANIFEST} has format {version}, this program reads {FORMAT}: pip install -U diffrt")
        del record["format"]
        return _consistent(_manifest(record, ""))


def _consistent(manifest: Manifest) -> Manifest:
    """What ties the parts of a manifest together."""
    named = {v.file: f"components.{c.name}" for c in manifest.components.values() for v in c.variants}
    for path, where in named.items() if manifest.probe is None else (*named.items(), (manifest.probe, "probe")):
        if path not in manifest.files:
            raise BundleError(f"{MANIFEST}: {where} names {path!r}, which is not among its files")
    channels, factor = manifest.latents["channels"], manifest.latents["scale_factor"]
    if manifest.preview and len(manifest.preview["matrix"]) != channels:
        raise BundleError(f"{MANIFEST}: preview.matrix has {len(manifest.preview['matrix'])} rows for {channels} channels")
    if manifest.defaults.height % factor or manifest.defaults.width % factor:
        raise BundleError(f"{MANIFEST}: the default height and width are not multiples of {factor}")
    return manifest


# --- reading: each parser takes a JSON value and where it stands, and returns what it means ---


def _wrong(value: Any, where: str, allowed: str) -> BundleError:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return BundleError(f"{MANIFEST}: {where or 'the whole'} is {shown}; it must be {allowed}")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise _wrong(value, where, "text")
    return value


def _matching(pattern: str, allowed: str) -> Parse:
    def parse(value: Any, where: str) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise _wrong(value, where, allowed)
        return value

    return parse


def _whole(low: int, high: int = 2**53) -> Parse:
    def parse(value: Any, where: str) -> int:
        if type(value) is not int or not low <= value <= high:
            raise _wrong(value, where, f"a whole number from {low} to {high}")
        return value

    return parse


def _number(value: Any, where: str) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise _wrong(value, where, "a number")
    return float(value)


def _free(value: Any, where: str) -> dict:
    if not isinstance(value, dict):
        raise _wrong(value, where, "an object")
    return value


def _path(value: Any, where: str) -> str:
    """A relative POSIX path that stays inside the folder, on every system."""
    if (
        not isinstance(value, str)
        or any(part in ("", ".", "..") for part in value.split("/"))
        or re.search(r'[\\:*?"<>|\x00-\x1f]', value)
    ):
        raise _wrong(value, where, "a relative path inside the bundle, with / between its parts")
    return value


def _dimension(value: Any, where: str) -> int | str:
    return _text(value, where) if isinstance(value, str) else _whole(1)(value, where)


def _optional(parse: Parse) -> Parse:
    return lambda value, where: None if value is None else parse(value, where)


def _list(parse: Parse, low: int = 0, high: int = 10_000) -> Parse:
    def parse_all(value: Any, where: str) -> tuple:
        if not isinstance(value, list) or not low <= len(value) <= high:
            raise _wrong(value, where, f"a list of {low} to {high} items")
        return tuple(parse(item, f"{where}[{i}]") for i, item in enumerate(value))

    return parse_all


def _keyed(parse: Callable[[str, Any, str], Any], key: Parse = _text) -> Parse:
    """An object with free keys; parse gets the key as well."""

    def parse_all(value: Any, where: str) -> dict:
        return {key(k, where): parse(k, v, f"{where}[{k!r}]") for k, v in _free(value, where).items()}

    return parse_all


def _record(make: Callable[..., Any], spare: tuple[str, ...] = (), **parsers: Parse) -> Parse:
    """An object with exactly these keys; those in `spare` may be missing."""

    def parse(value: Any, where: str) -> Any:
        for key in _free(value, where):
            if key not in parsers:
                raise BundleError(f"{MANIFEST}: {where or 'the whole'} has an unknown key {key!r}")
        for key in parsers:
            if key not in value and key not in spare:
                raise BundleError(f"{MANIFEST}: {where or 'the whole'} lacks the key {key!r}")
        return make(**{k: parsers[k](v, f"{where}.{k}".lstrip(".")) for k, v in value.items()})

    return parse


_sha256 = _matching("[0-9a-f]{64}", "64 hexadecimal digits")
_file = _record(FileEntry, spare=("header_sha256",), bytes=_whole(0), sha256=_sha256, header_sha256=_sha256)
_tensor = _record(
    TensorSpec,
    name=_text,
    dtype=_matching("float32|int64", "float32 or int64: what stands at a graph's boundary"),
    shape=_list(_dimension, high=8),
)
_variant = _record(
    Variant,
    file=_path,
    precision=_text,
    attention=_text,
    static=_optional(_matching("[1-9][0-9]{0,5}x[1-9][0-9]{0,5}", "a size such as 512x512, or null")),
)


def _component(name: str, value: Any, where: str) -> ComponentSpec:
    fields = _record(
        dict, inputs=_list(_tensor, 1), outputs=_list(_tensor, 1), variants=_list(_variant, 1)
    )(value, where)  # fmt: skip
    return ComponentSpec(name, **fields)


_manifest = _record(
    Manifest,
    generator=_text,
    family=_text,
    tasks=_list(_text, 1),
    defaults=_record(
        Defaults,
        height=_whole(1, 1 << 16),
        width=_whole(1, 1 << 16),
        num_inference_steps=_whole(1, 100_000),
        guidance_scale=_number,
        scheduler=_text,
    ),
    latents=_record(dict, channels=_whole(1, 4096), scale_factor=_whole(1, 256)),
    tokenizer=_record(dict, folder=_path, max_length=_whole(3, 4096), pad=_text),
    preview=_optional(_record(dict, matrix=_list(_list(_number, 3, 3), 1), bias=_list(_number, 3, 3))),
    files=_keyed(lambda key, value, where: _file(value, where), key=_path),
    components=_keyed(_component),
    certificate=_optional(_free),
    probe=_optional(_path),
)
