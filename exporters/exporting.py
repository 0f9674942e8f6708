"""Export a checkpoint to a bundle: trace each component, write its graphs beside the weights, certify, rename.

Everything is written in ``DEST.partial-PID`` beside the target and renamed last: an interrupted export leaves nothing
loadable, and the next run removes what it left.
"""

import dataclasses
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from diffrt import __version__, schedulers
from diffrt.configs import fits, spelled
from diffrt.errors import CheckpointError, InvalidArgument, nearest
from diffrt.folders import Say, building, check_free, link, publish
from diffrt.hub import is_id
from diffrt.manifest import MANIFEST, ComponentSpec, Defaults, Manifest, Tiling, Variant
from diffrt.stable_diffusion import tokenizer_entry

from .checkpoint import Checkpoint, open_checkpoint
from .conversion import convert
from .entries import file_entries
from .files import copy_texts
from .hub import find
from .int8.quantizing import quantize_components
from .lowering import CHOICES, lower
from .optimum import write_optimum
from .passes.shapes import drop_inner_shapes
from .precision import Size, widen_overflows
from .sources import Source, opened
from .spec import Component, Family
from .tiles import cut
from .trace import check_fit, declare_shapes, trace
from .verify import certify, fit_preview
from .weights import PRECISIONS, Weights, attach

FALLBACK_SCHEDULER = "DDIMScheduler"
LAYOUTS = ("diffrt", "optimum")


@dataclasses.dataclass(frozen=True, eq=False)
class Traced:
    """A component's graphs, of any size (None) and of a fixed one, as they are to be written."""

    component: Component
    models: Mapping[Size, ir.Model]
    precision: str
    overflows: Mapping[str, float] | None = None  # as in the manifest
    quantized: int | None = None  # as in the manifest


def export(
    source: str | os.PathLike,
    dest: str | os.PathLike,
    *,
    revision: str | None = None,
    family: Family | None = None,
    layout: str = "diffrt",
    precision: str = "fp32",
    attention: str = "auto",
    static: tuple[int, int] | None = None,
    prediction_type: str | None = None,
    verify: bool = True,
    copy_weights: bool = False,
    force: bool = False,
    defaults: Mapping[str, Any] | None = None,
    progress: Say | None = None,
) -> Path:
    """Export the checkpoint ``source`` to the bundle folder ``dest``.

    source        a folder in diffusers layout, a single file, or org/name, the id of a model on the Hugging Face Hub.
    revision      the branch, tag or commit of an id.
    family        how to read a folder of a pipeline class that is not known here: see docs/bring-your-own.md.
    layout        "diffrt", a bundle, or "optimum", a folder that optimum loads: in fp32, without static graphs and
                  without a comparison with PyTorch.
    precision     "fp32", "fp16" or "int8". fp16 points at the checkpoint's fp16 weights and converts fp32 ones into the
                  bundle where it has none. What overflows is measured, with verify or without, by running each
                  component in fp32 in a process of its own; it computes in fp32.
                  int8 writes the denoiser and the decoder in 8 bits where that is faster on this machine, calibrated in
                  the same way; other components are in fp32.
    attention     "auto" (portable, cuda and ort), "portable", "ort" or "sliced": the forms of attention written.
    static        (height, width) in pixels: adds graphs of that fixed size, without shape arithmetic.
    prediction_type  of a single file: "epsilon" or "v_prediction", where the guess (which is said) is wrong.
    verify        run each graph against eager PyTorch and write the certificate; outside tolerance is an ExportError.
    copy_weights  copy the weight files instead of hard-linking them (for a source that may be overwritten in place).
    force         replace ``dest`` where it is a bundle.
    defaults      overrides of the manifest's defaults: height, width, num_inference_steps, guidance_scale.
    progress      is called with one line as each stage begins.

    Returns the bundle's path. Raises InvalidArgument, CheckpointError, HubError or ExportError: then nothing is left
    at ``dest``.
    """
    say = progress or (lambda line: None)
    target = Path(dest).absolute()
    checked_options(precision, attention)
    if layout not in LAYOUTS:
        raise InvalidArgument(f"layout {layout!r} is unknown; {nearest(str(layout), LAYOUTS)}")
    if layout == "optimum" and (precision != "fp32" or attention != "auto" or static or defaults):
        raise InvalidArgument("precision, attention, static and defaults belong to the layout diffrt: leave them out")
    if family is not None and (layout == "optimum" or is_id(source)):
        raise InvalidArgument("a family is declared: give a folder as the source, and leave out the layout")
    check_target(target, None if is_id(source) else Path(source), force)  # before anything is fetched
    folder = find(source, revision, precision, say)
    with opened(folder, target, precision, prediction_type, copy_weights, say, family) as origin:
        if layout == "optimum":
            write_optimum(origin, target, copy_weights, say)
        else:
            write_bundle(origin, target, precision, attention, static, verify, copy_weights, defaults or {}, say)
    say(f"wrote {target}")
    return target


def write_bundle(
    origin: Source,
    target: Path,
    precision: str,
    attention: str,
    static: tuple[int, int] | None,
    verify: bool,
    copy_weights: bool,
    defaults: Mapping[str, Any],
    say: Say,
) -> None:
    """Check everything that can be checked, then build the bundle and put it in its place."""
    checkpoint = open_checkpoint(origin.root, origin.family)
    components = checkpoint.components
    weights = {part: checkpoint.weights(part, precision) for part in checkpoint.configs}
    for component in {c.part: c for c in components}.values():
        check_fit(component, checkpoint.configs[component.part], weights[component.part])
    latents = checkpoint.family.latents(checkpoint.configs)
    factor = latents["scale_factor"]
    if static and (len(static) != 2 or any(type(size) is not int or size <= 0 or size % factor for size in static)):
        given = "x".join(map(str, static))
        raise InvalidArgument(f"static size {given}: height and width must be multiples of {factor}")
    settings = manifest_defaults(checkpoint, static, defaults, factor, say)
    tokenizers = {
        encoder: tokenizer_entry(
            checkpoint.root,
            checkpoint.family.t5.get(encoder) or checkpoint.configs[encoder]["max_position_embeddings"],
            folder,
            "t5" if encoder in checkpoint.family.t5 else "bert" if encoder in checkpoint.family.bert else "clip",
        )
        | ({"lowered": True} if checkpoint.family.lowered else {})
        for encoder, folder in checkpoint.tokenizers.items()
    }
    for name in checkpoint.skipped:
        say(f"skipping {name}: it is not exported yet")

    with building(target) as folder:
        origin.fill(say)
        weights = copy_parts(checkpoint, weights, folder, copy_weights and not origin.converted, say)
        specs = {}
        for each in graphs(folder, checkpoint, weights, components, precision, static, settings, tokenizers, say):
            component, variants, tiling = each.component, [], None
            for size, model in each.models.items():
                fixed = fixed_axes(component, size, factor)
                variants += write_graphs(component, model, each.precision, attention, size, fixed, folder)
                if component.tiled and size is None:
                    tiling = write_tiles(component, model, each.precision, attention, folder)
            specs[component.name] = ComponentSpec(
                component.name, component.inputs, component.outputs, tuple(variants), tiling,
                each.overflows, each.quantized,
            )  # fmt: skip
        say("hashing")
        manifest = Manifest(
            generator=f"diffrt {__version__}",
            family=checkpoint.family.name,
            tasks=checkpoint.family.tasks(checkpoint.configs),
            defaults=settings,
            latents=latents,
            denoiser=checkpoint.family.denoiser,
            conditions=checkpoint.conditions,
            tokenizers=tokenizers,
            zero_negative=bool(checkpoint.index.get("force_zeros_for_empty_prompt", checkpoint.family.zero_negative)),
            even_sigmas=checkpoint.family.even_sigmas,
            strength_rounds_up=checkpoint.family.strength_rounds_up,
            classes=checkpoint.family.classes(checkpoint.index, checkpoint.configs),
            preview=fit_preview(folder, latents, specs, say),
            files=file_entries(folder),
            components=specs,
            certificate=None,
            probe=None,
        )
        if verify:
            manifest = certify(folder, checkpoint, components, manifest, precision, say)
        (folder / MANIFEST).write_text(manifest.dumps(), "utf-8")  # last: without it nothing loads
        publish(folder, target)


def checked_options(precision: str, attention: str) -> None:
    if precision not in PRECISIONS:
        raise InvalidArgument(f"precision {precision!r} is unknown; {nearest(str(precision), PRECISIONS)}")
    if attention not in CHOICES:
        raise InvalidArgument(f"attention {attention!r} is unknown; {nearest(str(attention), CHOICES)}")


def check_target(target: Path, source: Path | None, force: bool) -> None:
    if source and source.resolve() in (target.resolve(), *target.resolve().parents):
        raise InvalidArgument(f"{target} is the checkpoint itself or inside it; choose another folder")
    if source and target.resolve() in source.resolve().parents:
        raise InvalidArgument(f"{target} holds the checkpoint {source}; choose another folder")
    check_free(target, MANIFEST, force, "a bundle")


def copy_parts(
    checkpoint: Checkpoint, weights: Mapping[str, Weights], folder: Path, copy: bool, say: Say
) -> dict[str, Weights]:
    """Lay out the checkpoint's own files: JSON copied, weights hard-linked (or copied where links do not reach), or
    converted. Returns the weights that the graphs are to point at."""
    copy_texts(checkpoint, folder)
    placed = dict(weights)
    for part, tensors in weights.items():
        (folder / part).mkdir()
        shutil.copyfile(checkpoint.root / part / "config.json", folder / part / "config.json")
        if tensors.to_convert:
            say(f"converting {part} to {'fp16' if tensors.precision == 'fp16' else 'fp32'}")
            placed[part] = convert(tensors, folder / part)
            continue
        if tensors.index:
            shutil.copyfile(tensors.index, folder / part / tensors.index.name)
        for file in tensors.files:
            link(file.resolve(), folder / part / file.name, copy, say)
    return placed


def graphs(
    folder: Path,
    checkpoint: Checkpoint,
    weights: Mapping[str, Weights],
    components: tuple[Component, ...],
    precision: str,
    static: tuple[int, int] | None,
    settings: Defaults,
    tokenizers: Mapping[str, Mapping[str, Any]],
    say: Say,
) -> Iterator[Traced]:
    """Trace each component for any size and for the static one, and yield it: at once in fp32; in the other precisions
    when all are traced, measured over a short generation and rewritten."""
    factor = checkpoint.family.latents(checkpoint.configs)["scale_factor"]
    waiting: dict[str, dict[Size, ir.Model]] = {}
    for component in components:
        models: dict[Size, ir.Model] = {}
        for size in (None, static) if static else (None,):
            fixed = fixed_axes(component, size, factor)
            if size is None or fixed:
                say(f"tracing {component.name}" + (f" at {size[0]}x{size[1]}" if size else ""))
                models[size] = trace(component, checkpoint.configs[component.part], weights[component.part], fixed)
                attach(models[size], weights[component.part], component.real)
        if precision == "fp32":
            yield Traced(component, models, precision)
        else:
            waiting[component.name] = models
    if precision == "fp16":
        overflows = widen_overflows(folder, checkpoint, components, waiting, settings, tokenizers, say)
        for component in components:
            yield Traced(component, waiting[component.name], precision, overflows=overflows[component.name])
    if precision == "int8":
        counts = quantize_components(folder, checkpoint, components, waiting, weights, settings, tokenizers, say)
        for component in components:
            count = counts.get(component.name)
            yield Traced(component, waiting[component.name], precision if count else "fp32", quantized=count or None)


def write_graphs(
    component: Component,
    traced: ir.Model,
    precision: str,
    attention: str,
    static: tuple[int, int] | None,
    fixed: Mapping[str, int],
    folder: Path,
) -> list[Variant]:
    """Write one graph for each form of attention that differs."""
    size = f"{static[0]}x{static[1]}" if static else None
    variants: list[Variant] = []
    for form in CHOICES[attention]:
        model = traced.clone()
        if lower(model, form) == 0:
            form = "portable"
        if form == "cuda" and (precision == "int8" or not any(node.op_type == "GroupNorm" for node in model.graph)):
            continue  # without such norms the form ort is the same
        if any(v.attention == form for v in variants):
            continue
        declare_shapes(model, component, fixed)
        drop_inner_shapes(model)
        marks = [precision if precision != "fp32" else "", form if form != "portable" else "", size or ""]
        file = ".".join([component.graph, *filter(None, marks), "onnx"])
        ir.save(model, folder / component.part / file)
        variants.append(Variant(f"{component.part}/{file}", precision, form, size))
    return variants


def write_tiles(component: Component, traced: ir.Model, precision: str, attention: str, folder: Path) -> Tiling | None:
    """Write the two graphs of an autoencoder's half that large pictures are made with."""
    model = traced.clone()
    declare_shapes(model, component, {})
    parts = cut(model)
    if parts is None:
        return None
    lower(parts.whole, CHOICES[attention][-1])
    mark = f".{precision}" if precision != "fp32" else ""
    files = {name: f"{component.part}/{component.graph}{mark}.{name}.onnx" for name in ("whole", "tiled")}
    for name, part in (("whole", parts.whole), ("tiled", parts.tiled)):
        drop_inner_shapes(part)
        ir.save(part, folder / files[name])
    return Tiling(**files, precision=precision, halo=parts.halo, norms=parts.norms, groups=parts.groups)


def fixed_axes(component: Component, static: tuple[int, int] | None, factor: int) -> dict[str, int]:
    """The sizes of a component's axes in a graph for pictures of the static size; the batch stays dynamic."""
    if static is None:
        return {}
    height, width = static
    sizes = {"height": height, "width": width, "h": height // factor, "w": width // factor}
    fixed = {axis: size for axis, size in sizes.items() if axis in component.axes}
    return fixed | {"sequence": component.axes["sequence"]} if "sequence" in component.axes and fixed else fixed


def manifest_defaults(
    checkpoint: Checkpoint, static: tuple[int, int] | None, given: Mapping[str, Any], factor: int, say: Say
) -> Defaults:
    """The family's defaults, the static size where there is one, and what the caller gives."""
    values = checkpoint.family.defaults(checkpoint.configs) | {"scheduler": scheduler_name(checkpoint, say)}
    values |= {"height": static[0], "width": static[1]} if static else {}
    for key in given:
        if key not in values:
            raise InvalidArgument(f"default {key!r} is unknown; {nearest(key, values)}")
    settings = Defaults(**{**values, **given})
    for field in dataclasses.fields(Defaults):
        value = getattr(settings, field.name)
        if not fits(value, field.type):
            raise InvalidArgument(f"default {field.name} is {value!r}; allowed: {spelled(field.type)}")
    schedulers.scheduler_class(settings.scheduler)
    if settings.height % factor or settings.width % factor:
        size = f"{settings.height}x{settings.width}"
        raise InvalidArgument(f"default size {size}: height and width must be multiples of {factor}")
    return settings


def scheduler_name(checkpoint: Checkpoint, say: Say) -> str:
    """The checkpoint's scheduler class; where diffrt has none of that name, DDIM over the same noise schedule."""
    name = checkpoint.scheduler.get("_class_name")
    if not isinstance(name, str) or name not in schedulers.SCHEDULERS:
        say(f"scheduler {name!r} is not in diffrt yet: the bundle's default is {FALLBACK_SCHEDULER}")
        name = FALLBACK_SCHEDULER
    try:
        schedulers.from_config(checkpoint.scheduler, name)
    except InvalidArgument as error:
        raise CheckpointError(f"scheduler/scheduler_config.json: {error}") from error
    return name
