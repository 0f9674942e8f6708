"""diffrt.json, the manifest of a bundle, as frozen dataclasses: what is in it, and what it was checked against.

Reading is strict: a wrong type, an unknown or missing key, or a path that leaves the folder is a BundleError.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from diffrt import strict
from diffrt.errors import BundleError
from diffrt.strict import Misfit, list_of, matching, optional, record, whole

FORMAT = 1
MANIFEST = "diffrt.json"
IMAGE_ENCODER = "image_encoder"  # the component that says in place of a text encoder what is to be drawn
STEP = "step"  # the component that is the denoiser with guidance and a row of a table around it, where there is one


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
class Tiling:
    """Half of an autoencoder as two graphs, for pictures too large for one: what runs whole, and what runs in tiles."""

    whole: str
    tiled: str
    precision: str
    halo: int  # latent pixels around a tile that it depends on
    norms: int  # group norms in the tiled graph
    groups: int  # of each


@dataclass(frozen=True)
class ComponentSpec:
    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    variants: tuple[Variant, ...]
    tiling: Tiling | None = None
    overflows: Mapping[str, float] | None = None  # of fp16: nodes that do not fit it -> magnitude at export
    quantized: int | None = None  # of int8: how many layers compute in it

    @property
    def graphs(self) -> tuple[str, ...]:
        """Every graph file."""
        return (*(v.file for v in self.variants), *((self.tiling.whole, self.tiling.tiled) if self.tiling else ()))


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
    # channels; scale_factor: pixels per latent; patch: latents per token of a transformer; low: black, of models of
    # pixels from 0 to 1; sizes: [height, width] in pixels of those that a model draws at, see own_sizes.py
    latents: Mapping[str, Any]
    denoiser: str  # the component that the sampler calls
    conditions: Mapping[str, tuple[str, ...]]  # its input -> every "encoder.output" that it is, side by side
    tokenizers: Mapping[str, Mapping[str, Any]]  # text encoder -> folder, max_length, pad, start, end (tokens), lowered
    classes: tuple[str, ...]  # names of those that a class-conditional model draws, with commas between several of one
    even_sigmas: bool  # a flow model's levels are evenly spaced from 1 to 1 / steps, before they are shifted
    zero_negative: bool  # where no negative prompt is given its conditions are zero, and not those of an empty text
    preview: Mapping[str, Any] | None  # matrix [C][3], bias [3]: latents to the decoder's RGB in [-1,1]
    files: Mapping[str, FileEntry]  # every file of the bundle but the manifest and README.md
    components: Mapping[str, ComponentSpec]
    certificate: Mapping[str, Any] | None
    probe: str | None  # inputs and outputs of every graph, for `diffrt verify`
    strength_rounds_up: bool = False  # image-to-image runs the last strength * steps, rounded up and not down

    def dumps(self) -> str:
        record = {"format": FORMAT, **asdict(self)}
        if not self.strength_rounds_up:
            del record["strength_rounds_up"]
        record["files"] = {
            path: {k: v for k, v in entry.items() if v is not None} for path, entry in record["files"].items()
        }
        for component in record["components"].values():
            del component["name"]
            for key in ("tiling", "overflows", "quantized"):
                if component[key] is None:
                    del component[key]
        return json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @staticmethod
    def loads(text: str) -> "Manifest":
        """Raises BundleError, one line that says what is wrong and where."""
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{MANIFEST} is not JSON: {error}") from None
        version = content.get("format") if isinstance(content, dict) else None
        if type(version) is not int or version < 1:
            raise BundleError(f"{MANIFEST} is not a manifest: it has no format number; export the checkpoint again")
        if version > FORMAT:
            raise BundleError(f"{MANIFEST} has format {version}, this program reads {FORMAT}: pip install -U diffrt")
        del content["format"]
        try:
            return _consistent(_manifest(content, ""))
        except Misfit as error:
            raise BundleError(f"{MANIFEST}: {error}") from None


def _consistent(manifest: Manifest) -> Manifest:
    """What ties the parts of a manifest together."""
    named = {file: f"components.{c.name}" for c in manifest.components.values() for file in c.graphs}
    for path, where in named.items() if manifest.probe is None else (*named.items(), (manifest.probe, "probe")):
        if path not in manifest.files:
            raise Misfit(f"{where} names {path!r}, which is not among its files")
    sources = {each for names in manifest.conditions.values() for each in names}
    given = {f"{c.name}.{spec.name}" for c in manifest.components.values() for spec in c.outputs}
    for missing in sorted(sources - given):
        raise Misfit(f"conditions name {missing!r}, which no component gives")
    for encoder in sorted({each.partition(".")[0] for each in sources} - {*manifest.tokenizers, IMAGE_ENCODER}):
        raise Misfit(f"tokenizers lacks {encoder!r}, of which conditions are made")
    if manifest.denoiser not in manifest.components:
        raise Misfit(f"denoiser is {manifest.denoiser!r}, which is not among its components")
    channels, factor = manifest.latents["channels"], manifest.latents["scale_factor"]
    if manifest.preview and len(manifest.preview["matrix"]) != channels:
        rows = len(manifest.preview["matrix"])
        raise Misfit(f"preview.matrix has {rows} rows for {channels} channels")
    if manifest.defaults.height % factor or manifest.defaults.width % factor:
        raise Misfit(f"the default height and width are not multiples of {factor}")
    return manifest


# The JSON form of each record.

_sha256 = matching("[0-9a-f]{64}", "64 hexadecimal digits")
_file = record(FileEntry, spare=("header_sha256",), bytes=whole(0), sha256=_sha256, header_sha256=_sha256)
_tensor = record(
    TensorSpec,
    name=strict.text,
    dtype=matching("float32|int64", "float32 or int64: what stands at a graph's boundary"),
    shape=list_of(strict.dimension, high=8),
)
_variant = record(
    Variant,
    file=strict.inner_path,
    precision=strict.text,
    attention=strict.text,
    static=optional(matching("[1-9][0-9]{0,5}x[1-9][0-9]{0,5}", "a size such as 512x512, or null")),
)
_tiling = record(
    Tiling,
    whole=strict.inner_path,
    tiled=strict.inner_path,
    precision=strict.text,
    halo=whole(0, 256),
    norms=whole(1, 4096),
    groups=whole(1, 4096),
)


_sources = list_of(matching(r"[^.]+[.][^.]+", "component.output"), 1)
_tokenizer = record(
    dict,
    spare=("start", "end", "lowered"),
    folder=strict.inner_path,
    max_length=whole(3, 4096),
    pad=strict.text,
    start=optional(strict.text),
    end=strict.text,
    lowered=strict.boolean,
)


def _component(name: str, value: Any, where: str) -> ComponentSpec:
    fields = record(
        dict,
        spare=("tiling", "overflows", "quantized"),
        inputs=list_of(_tensor, 1),
        outputs=list_of(_tensor, 1),
        variants=list_of(_variant, 1),
        tiling=optional(_tiling),
        overflows=strict.keyed(lambda key, value, where: strict.number(value, where)),
        quantized=whole(1, 1 << 20),
    )(value, where)
    return ComponentSpec(name, **fields)


_manifest = record(
    Manifest,
    spare=("strength_rounds_up",),
    generator=strict.text,
    family=strict.text,
    tasks=list_of(strict.text, 1),
    defaults=record(
        Defaults,
        height=whole(1, 1 << 16),
        width=whole(1, 1 << 16),
        num_inference_steps=whole(1, 100_000),
        guidance_scale=strict.number,
        scheduler=strict.text,
    ),
    latents=record(
        dict,
        spare=("patch", "low", "sizes"),
        channels=whole(1, 4096),
        scale_factor=whole(1, 256),
        patch=whole(1, 64),
        low=whole(-1, 0),
        sizes=list_of(list_of(whole(1, 1 << 16), 2, 2), 1),
    ),
    denoiser=strict.text,
    conditions=strict.keyed(lambda key, value, where: _sources(value, where)),
    tokenizers=strict.keyed(lambda key, value, where: _tokenizer(value, where)),
    classes=list_of(strict.text, high=100_000),
    even_sigmas=strict.boolean,
    zero_negative=strict.boolean,
    strength_rounds_up=strict.boolean,
    preview=optional(record(dict, matrix=list_of(list_of(strict.number, 3, 3), 1), bias=list_of(strict.number, 3, 3))),
    files=strict.keyed(lambda key, value, where: _file(value, where), key=strict.inner_path),
    components=strict.keyed(_component),
    certificate=optional(strict.obj),
    probe=optional(strict.inner_path),
)
