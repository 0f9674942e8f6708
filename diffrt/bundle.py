"""A bundle: a checkpoint folder with graphs and a manifest, checked when it is opened.

Checked are the size of every file, the sha256 of every graph and text file and of every safetensors header, and that
each graph takes each tensor from exactly where the header says it is: ONNX Runtime would read a wrong place silently.
The sha256 of whole weight files is left to `diffrt verify`.

A folder of graphs that another program wrote opens as a bundle too: diffrt/foreign says what its manifest would.
"""

import hashlib
import json
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffrt.errors import BundleError, InvalidArgument
from diffrt.manifest import MANIFEST, ComponentSpec, FileEntry, Manifest, Variant
from diffrt.onnx_file import OnnxFileError, read_initializers
from diffrt.safetensors_header import HeaderError, TensorEntry, header_length, read_header

if TYPE_CHECKING:
    from diffrt.foreign import Adapter

LARGEST_MANIFEST = 16 << 20  # bytes
LARGEST_TEXT = 128 << 20  # bytes of a vocabulary, config or any other file that is hashed whole
WEIGHTS, GRAPH = ".safetensors", ".onnx"

Headers = dict[str, dict[str, TensorEntry]]


@dataclass(frozen=True)
class Bundle:
    root: Path
    manifest: Manifest
    adapters: Mapping[str, "Adapter"] = field(default_factory=dict)  # by component, of another program's graphs

    @staticmethod
    def open(path: str | Path) -> "Bundle":
        """Raises BundleError, one line naming the file and what is wrong with it."""
        root = Path(path)
        if not (root / MANIFEST).is_file():
            from diffrt import foreign  # the code that is imported for nothing else

            if foreign.found(root):
                return Bundle(root, *foreign.read(root))
        bundle = Bundle(root, read_manifest(root))
        try:
            headers: Headers = {}
            for name, entry in bundle.manifest.files.items():
                _check_file(root, name, entry)
                if name.endswith(WEIGHTS):
                    headers[name] = read_header(root / name)
            for component in bundle.manifest.components.values():
                for graph in component.graphs:
                    _check_graph(root, graph, headers)
        except (HeaderError, OnnxFileError) as error:
            raise BundleError(str(error)) from None
        return bundle

    def own(self) -> "Bundle":
        """This bundle, or BundleError where another program wrote it: it has no hashes and no certificate."""
        if self.adapters:
            raise BundleError(f"{self.root} was not exported by diffrt: without {MANIFEST} it runs, and no more")
        return self

    def path(self, name: str) -> Path:
        """Where a file of the manifest lies. BundleError for any other name."""
        if name not in self.manifest.files:
            raise BundleError(f"{self.root}: the bundle has no {name}; export the checkpoint again")
        return self.root / name

    def json(self, name: str) -> dict[str, Any]:
        """The object in a JSON file."""
        try:
            value = json.loads(self.path(name).read_text("utf-8"))
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{self.root / name} is not JSON: {error}") from None
        if not isinstance(value, dict):
            raise BundleError(f"{self.root / name} is not a JSON object")
        return value

    def component(self, name: str) -> ComponentSpec:
        """What the manifest says of a component. BundleError where there is none."""
        if name not in self.manifest.components:
            raise BundleError(f"{self.root}: the bundle has no {name}; export the checkpoint again")
        return self.manifest.components[name]

    def variant(self, component: str, attention: Sequence[str], size: tuple[int, int] | None = None) -> Variant:
        """The graph to run: one made for this (height, width) in pixels, else one of any size; of those the form of
        attention that comes first. InvalidArgument where no size fits."""
        variants = self.component(component).variants
        fitting = [v for v in variants if v.size in (None, size)]
        if not fitting:
            sizes = ", ".join(sorted({v.static or "" for v in variants}))
            raise InvalidArgument(f"{component} was exported for the sizes {sizes} (HxW): ask for one of those")
        order = [*attention, *(v.attention for v in fitting)]
        return min(fitting, key=lambda v: (v.size is None, order.index(v.attention)))


def read_manifest(root: Path) -> Manifest:
    """A folder's manifest. Raises BundleError where there is none or it is damaged."""
    path = root / MANIFEST
    if not path.is_file():
        if (root / "model_index.json").is_file():
            raise BundleError(f"{root} is a checkpoint, not a bundle: run diffrt export {root} DEST and load DEST")
        raise BundleError(f"{root} is no bundle: it has no {MANIFEST}")
    if path.stat().st_size > LARGEST_MANIFEST:
        raise BundleError(f"{path} has {path.stat().st_size} bytes; a manifest has at most {LARGEST_MANIFEST}")
    try:
        return Manifest.loads(path.read_text("utf-8"))
    except UnicodeDecodeError:
        raise BundleError(f"{path} is not UTF-8 text") from None
    except BundleError as error:
        raise BundleError(f"{root}: {error}") from None


def _check_file(root: Path, name: str, entry: FileEntry) -> None:
    path = root / name
    if not path.is_file():
        raise BundleError(f"{path} is missing: copy the bundle again, or export again")
    size = path.stat().st_size
    if size != entry.bytes:
        raise BundleError(f"{path} has {size} bytes, the manifest says {entry.bytes}: copy the bundle again")
    if not name.endswith((WEIGHTS, GRAPH)) and size > LARGEST_TEXT:
        raise BundleError(f"{path} has {size} bytes; a file that is no graph or weights has at most {LARGEST_TEXT}")
    with path.open("rb") as file:
        if name.endswith(WEIGHTS):
            digest, expected = hashlib.sha256(file.read(header_length(path))), entry.header_sha256
        else:
            digest, expected = hashlib.file_digest(file, "sha256"), entry.sha256
    if digest.hexdigest() != expected:
        raise BundleError(f"{path} is not the file the manifest describes (sha256): copy the bundle again")


def _check_graph(root: Path, graph: str, headers: Headers) -> None:
    """Every tensor outside the graph must be where the safetensors header has the tensor of that name."""
    for tensor in read_initializers(root / graph):
        if tensor.external is None:
            continue
        file = posixpath.normpath(posixpath.join(posixpath.dirname(graph), tensor.external.location))
        if file not in headers:
            raise BundleError(f"{root / graph}: {tensor.name!r} lies in {file!r}, no weight file of the bundle")
        entry = headers[file].get(tensor.name)
        found = TensorEntry(tensor.dtype, tensor.shape, tensor.external.offset, tensor.external.length)
        if entry != found:
            raise BundleError(
                f"{root / graph}: {tensor.name!r} is taken from {file} as {_place(found)}; "
                f"its header has {_place(entry) if entry else 'no such tensor'}"
            )


def _place(entry: TensorEntry) -> str:
    return f"{entry.dtype} {list(entry.shape)}, {entry.length} bytes at {entry.offset}"
