"""Export a bundle or a checkpoint to a bundle that has step graphs beside its components' graphs."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from diffrt import hub
from diffrt.bundle import WEIGHTS, Bundle
from diffrt.errors import InvalidArgument
from diffrt.folders import Say, building, check_free, link, publish
from diffrt.manifest import MANIFEST, STEP, ComponentSpec, Manifest, Variant

from ..bundled import opened
from ..entries import file_entry
from .graph import boundary, step
from .probing import certified


def export(
    source: str | os.PathLike[str],
    dest: str | os.PathLike[str],
    *,
    revision: str | None = None,
    precision: str = "fp32",
    attention: str = "auto",
    static: tuple[int, int] | None = None,
    prediction_type: str | None = None,
    verify: bool = True,
    copy_weights: bool = False,
    force: bool = False,
    progress: Say = lambda line: None,
) -> Path:
    """Write `source`, a bundle or a checkpoint, as a bundle with step graphs to `dest`; on failure nothing is left.

    There is one for each of the denoiser's graphs, over the same weights. Of a bundle nothing is traced, and PyTorch is
    not needed. precision, attention, static, prediction_type and verify are of a checkpoint, as in exporters.export;
    copy_weights and force as there.

    Raises what exporters.export does, and BundleError.
    """
    target = Path(dest).absolute()
    check_free(target, MANIFEST, force, "a bundle")
    asked = {
        "precision": precision, "prediction_type": prediction_type, "attention": attention, "static": static,
    }  # fmt: skip
    with opened(source, revision, target, asked, progress, verify=verify) as bundle, building(target) as folder:
        manifest = bundle.own().manifest
        if STEP in manifest.components:
            raise InvalidArgument(f"{source} has step graphs already: it is ready to load")
        copy_bundle(bundle, folder, copy_weights, progress)
        graphs = {}
        for variant in manifest.components[manifest.denoiser].variants:
            progress(f"writing a step around {variant.file}")
            graphs[write_step(folder, variant)] = variant
        manifest = with_steps(folder, manifest, graphs)
        if manifest.probe is not None:
            progress("checking the steps")
        manifest = certified(Bundle(folder, manifest), {file: of.file for file, of in graphs.items()})
        (folder / MANIFEST).write_text(manifest.dumps(), "utf-8")  # last: without it nothing loads
        publish(folder, target)
    progress(f"wrote {target}")
    return target


def copy_bundle(bundle: Bundle, folder: Path, copy: bool, say: Say) -> None:
    """Its files, weights as hard links; not its manifest. The probe is to be written anew."""
    pages = [name for name in hub.PAGES if (bundle.root / name).is_file()]
    for name in dict.fromkeys((*bundle.manifest.files, *pages)):
        source, place = (bundle.root / name).resolve(), folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(WEIGHTS) and name != bundle.manifest.probe:
            link(source, place, copy, say)
        else:
            shutil.copyfile(source, place)


def write_step(folder: Path, variant: Variant) -> str:
    """The step graph beside the denoiser's graph that it is made of, whose weights it points at. Returns its path."""
    part, _, name = variant.file.rpartition("/")
    file = f"{part}/{STEP}.{name.partition('.')[2]}"
    ir.save(step(ir.load(folder / variant.file)), folder / file)
    return file


def with_steps(folder: Path, manifest: Manifest, graphs: Mapping[str, Variant]) -> Manifest:
    """The manifest, with these step graphs by their paths."""
    denoiser = manifest.components[manifest.denoiser]
    inputs, after = boundary(denoiser.inputs, denoiser.outputs[0].shape[1:])
    variants = tuple(replace(variant, file=file) for file, variant in graphs.items())
    spec = ComponentSpec(
        STEP, tuple(inputs), (after,), variants, overflows=denoiser.overflows, quantized=denoiser.quantized
    )
    files = {file: file_entry(folder / file) for file in graphs}
    return replace(
        manifest,
        components={**manifest.components, STEP: spec},
        files=dict(sorted({**manifest.files, **files}.items())),
    )
