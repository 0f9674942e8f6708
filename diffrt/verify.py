"""Re-checks a bundle where it runs: every byte against the manifest, every graph against its recorded probe.

The probe holds, for each graph, the inputs and the outputs of eager PyTorch from when the bundle was exported, under
`component/graph file/in/tensor` and `component/graph file/out/tensor`. PyTorch is not needed.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from diffrt.bundle import Bundle
from diffrt.components.vae import Halves
from diffrt.errors import BundleError, NumericalError
from diffrt.providers import Provider
from diffrt.providers import provider as provider_of
from diffrt.session import Session, require

TILE = 4  # latent pixels on a side, so that the probe's small pictures have several


@dataclass(frozen=True)
class FileCheck:
    """A file whose sha256 is the manifest's."""

    file: str
    bytes: int


@dataclass(frozen=True)
class GraphCheck:
    """How far a graph's worst output is from the recorded one."""

    component: str
    file: str
    relative_l2: float
    max_abs: float
    tolerance: float  # largest relative_l2 allowed

    @property
    def passed(self) -> bool:
        return self.relative_l2 <= self.tolerance


def verify(bundle: Bundle, provider: str = "cpu") -> Iterator[FileCheck | GraphCheck]:
    """Yield every file that is as it should be, then the figures of every graph in a form that the provider takes, or
    of a component without any; a bundle without a probe has no figures.

    Raises BundleError for a file that is not what the manifest says, and, after the last graph, NumericalError where
    any is outside its tolerance.
    """
    record = provider_of(provider)
    require(record)
    bundle.own()
    for name, entry in bundle.manifest.files.items():
        with bundle.path(name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
                raise BundleError(f"{bundle.path(name)} is damaged (sha256): copy the bundle again, or export again")
        yield FileCheck(name, entry.bytes)
    if bundle.manifest.probe is None:
        return
    try:
        probe = load_file(bundle.path(bundle.manifest.probe))
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{bundle.path(bundle.manifest.probe)} cannot be read: {error}") from None
    failed = []
    for component in bundle.manifest.components.values():
        taken = [variant for variant in component.variants if variant.attention in record.attention]
        for variant in taken or component.variants:
            session = Session(bundle.path(variant.file), record, component.name, variant.precision)
            key = f"{component.name}/{variant.file}"
            outputs = session.run(_under(probe, f"{key}/in/"))
            check = _compare(bundle, record, component.name, variant.file, outputs, _under(probe, f"{key}/out/"))
            if not check.passed:
                failed.append(check)
            yield check
        if component.tiling:
            key = f"{component.name}/{next(v.file for v in component.variants if v.static is None)}"
            inputs, expected = (_under(probe, f"{key}/{side}/") for side in ("in", "out"))
            halves = Halves.of(bundle, component.name, record)
            outputs = halves.run(inputs, TILE) if halves else {}
            check = _compare(bundle, record, component.name, component.tiling.tiled, outputs, expected)
            if not check.passed:
                failed.append(check)
            yield check
    if failed:
        worst = max(failed, key=lambda check: check.relative_l2 / check.tolerance)
        raise NumericalError(
            f"{len(failed)} graphs are outside tolerance here, {worst.file} most: relative L2 {worst.relative_l2:.2g}, "
            f"allowed {worst.tolerance:.2g}; try another provider or another version of onnxruntime"
        )


def _under(probe: dict[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    found = {key.removeprefix(prefix): array for key, array in probe.items() if key.startswith(prefix)}
    if not found:
        raise BundleError(f"the probe has nothing under {prefix}: export the checkpoint again")
    return found


def _compare(
    bundle: Bundle,
    provider: Provider,
    component: str,
    file: str,
    got: dict[str, NDArray[Any]],
    expected: dict[str, NDArray[Any]],
) -> GraphCheck:
    try:
        tolerance = float((bundle.manifest.certificate or {})["components"][component][file]["tolerance"])
    except (KeyError, TypeError, ValueError):
        raise BundleError(f"the certificate has no tolerance for {file}: export the checkpoint again") from None
    errors = []
    for name, array in expected.items():
        if name not in got or got[name].shape != array.shape:
            raise BundleError(f"{file} gives no {name} of shape {list(array.shape)}: export the checkpoint again")
        reference = array.astype(np.float64)
        error = got[name] - reference
        errors.append((np.linalg.norm(error) / (np.linalg.norm(reference) or 1.0), np.abs(error).max()))
    relative, absolute = np.max(errors, axis=0)  # NaN stays NaN, and is outside any tolerance
    return GraphCheck(component, file, float(relative), float(absolute), max(tolerance, provider.tolerance))
