"""Graphs as a provider runs them, kept in the user's cache: optimised once, weights in the order that kernels take.

A full-size denoiser then opens in a second instead of ten and runs as fast. Kept graphs are for one library version,
processor and bundle: others have other keys. A bundle's own folder is never written to.
"""

import hashlib
import posixpath
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from platform import machine, processor

from platformdirs import user_cache_path

from diffrt.bundle import WEIGHTS, Bundle
from diffrt.engines import library
from diffrt.folders import building, publish
from diffrt.manifest import STEP, Variant
from diffrt.providers import Provider


@dataclass(frozen=True)
class Prepared:
    """A graph that is kept."""

    file: str  # of the bundle
    folder: Path
    bytes: int


def place(bundle: Bundle, variant: Variant, provider: Provider) -> Path:
    """The folder in the cache for a graph; it need not exist."""
    beside = posixpath.dirname(variant.file)
    weights = [
        entry.sha256
        for name, entry in sorted(bundle.manifest.files.items())
        if name.endswith(WEIGHTS) and posixpath.dirname(name) == beside
    ]
    said = [
        provider.name,
        library(provider).version(),
        _machine(),
        bundle.manifest.files[variant.file].sha256,
        *weights,
    ]
    key = hashlib.sha256("\n".join(said).encode()).hexdigest()[:32]
    return user_cache_path("diffrt") / "prepared" / key


def find(bundle: Bundle, variant: Variant, provider: Provider) -> Path | None:
    """Where a graph is kept, or None."""
    if bundle.adapters:  # of another program: there are no hashes
        return None
    folder = place(bundle, variant, provider)
    return folder if folder.is_dir() else None


def prepare(bundle: Bundle, provider: Provider) -> Iterator[Prepared]:
    """Keep the graphs that pictures of the default size are drawn with, and yield each as it is there. Raises
    BundleError for the bundle of another program; ExportError where the cache cannot be written."""
    for variant in _variants(bundle.own(), provider):
        folder = place(bundle, variant, provider)
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with building(folder) as partial:
                library(provider).prepare(bundle.path(variant.file), provider, partial)
                publish(partial, folder)
        yield Prepared(variant.file, folder, sum(file.stat().st_size for file in folder.iterdir()))


def forget(bundle: Bundle, provider: Provider) -> Iterator[str]:
    """Remove what is kept of a bundle's graphs, and yield their names."""
    for variant in _variants(bundle.own(), provider):
        folder = find(bundle, variant, provider)
        if folder is not None:
            shutil.rmtree(folder)
            yield variant.file


def _variants(bundle: Bundle, provider: Provider) -> list[Variant]:
    size = bundle.manifest.defaults.height, bundle.manifest.defaults.width
    names = set(bundle.manifest.components)
    idle = bundle.manifest.denoiser if provider.step and STEP in names else STEP
    return [bundle.variant(name, provider.attention, size) for name in bundle.manifest.components if name != idle]


@cache
def _machine() -> str:
    """The processor: kernels differ by its instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return f"{machine()} {processor()}"
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
