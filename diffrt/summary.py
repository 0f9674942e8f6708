"""A readable summary of a bundle, for `diffrt inspect`."""

from collections.abc import Iterator, Mapping
from posixpath import dirname
from typing import Any

from diffrt.bundle import GRAPH, Bundle

APART = (GRAPH, ".json")  # what beside them is not weights


def summary(bundle: Bundle) -> str:
    return "\n".join(_lines(bundle))


def _lines(bundle: Bundle) -> Iterator[str]:
    m = bundle.manifest
    total = sum(entry.bytes for entry in m.files.values())
    yield f"{bundle.root}: {m.family}, {_size(total)} in {len(m.files)} files, written by {m.generator}"
    yield f"tasks       {', '.join(m.tasks)}"
    yield (
        f"defaults    {m.defaults.height}x{m.defaults.width} pixels (HxW), {m.defaults.num_inference_steps} steps, "
        f"guidance {m.defaults.guidance_scale:g}, {m.defaults.scheduler}"
    )
    yield "latents     {channels} channels, one for {scale_factor} x {scale_factor} pixels".format(**m.latents)
    for encoder, tokenizer in m.tokenizers.items():
        yield f"prompt      {tokenizer['max_length']} tokens of {tokenizer['folder']}/ to {encoder}"
    for name, component in m.components.items():
        folder = dirname(component.variants[0].file)
        weights = sum(e.bytes for f, e in m.files.items() if dirname(f) == folder and not f.endswith(APART))
        yield f"{name}: {_size(weights)} of weights in {folder}/"
        for spec, arrow in [*((s, "<-") for s in component.inputs), *((s, "->") for s in component.outputs)]:
            yield f"  {arrow} {spec.name} {spec.dtype} [{', '.join(map(str, spec.shape))}]"
        for v in component.variants:
            facts = f"{v.precision}, {v.attention}, {v.static or 'any size'}"
            yield f"  {v.file}  {_size(m.files[v.file].bytes)}  {facts}{_figures(m.certificate, name, v.file)}"
        if tiling := component.tiling:
            size = _size(m.files[tiling.whole].bytes + m.files[tiling.tiled].bytes)
            facts = f"{tiling.precision}, for large pictures{_figures(m.certificate, name, tiling.tiled)}"
            yield f"  {tiling.whole} and {tiling.tiled}  {size}  {facts}"
        if component.overflows is not None:
            yield f"  {_overflows(component.overflows)}"
        if component.quantized is not None:
            yield f"  {component.quantized} layers in 8 bits, the others in fp32"
    if any(v.precision == "fp16" for c in m.components.values() for v in c.variants):
        yield "fp16        halves the disk; on the CPU it saves no time: ONNX Runtime computes in fp32 there"
    yield from _certificate(m.certificate)


def _figures(certificate: Any, component: str, file: str) -> str:
    try:
        found = certificate["components"][component][file]
        if "relative_l2" not in found:
            return ", not run at export: diffrt verify --provider cuda"
        return f", relative L2 {found['relative_l2']:.1e} from PyTorch (allowed {found['tolerance']:.0e})"
    except (KeyError, TypeError, ValueError):
        return ""


def _overflows(nodes: Mapping[str, float]) -> str:
    if not nodes:
        return "all of it fits fp16, as measured at export"
    name = max(nodes, key=lambda node: nodes[node])
    return f"does not fit fp16 and computes in fp32: {len(nodes)} node(s), up to {nodes[name]:.3g} in {name}"


def _certificate(certificate: Any) -> Iterator[str]:
    if certificate is None:
        yield "certificate none: exported with --no-verify, or by another program"
        return
    try:
        picture, versions = certificate["picture"], certificate["versions"]
        yield f"certificate whole picture {picture['psnr_db']:.1f} dB PSNR from PyTorch's in {picture['steps']} steps"
        yield "  made with " + ", ".join(f"{name} {version}" for name, version in versions.items())
    except (AttributeError, KeyError, TypeError, ValueError):
        yield "certificate of a form this program does not know"


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
