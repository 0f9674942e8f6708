"""Folders of ONNX graphs that other programs wrote, run as they are: optimum's layout, and that of diffusers' script
for its ONNX pipelines. Each graph lies in a folder of its own as model.onnx, with or without a config.json beside it.

There is no manifest: what one would say is read here from configs and from the graphs themselves, and every graph has
an adapter between the component contract and its own names, ranks and dtypes. A lone denoiser's folder says the rest
itself: see alone.py.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from diffrt.components.tokenizer import FILES as TOKENIZER_FILES
from diffrt.configs import read_json
from diffrt.errors import BundleError, CheckpointError
from diffrt.foreign import alone
from diffrt.foreign.adapters import Adapter
from diffrt.foreign.externals import data_files, locations
from diffrt.foreign.text import conditions, text_component
from diffrt.foreign.unet import unet_component
from diffrt.foreign.vae import decoder_component, encoder_component, latents
from diffrt.manifest import ComponentSpec, Defaults, FileEntry, Manifest, Variant
from diffrt.onnx_file import GraphFile, OnnxFileError, read_graph
from diffrt.stable_diffusion import tokenizer_entry
from diffrt.strict import Misfit

INDEX, GRAPH, CONFIG, SCHEDULER = "model_index.json", "model.onnx", "config.json", "scheduler/scheduler_config.json"
TOKENIZERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
NEEDED, SPARE = ("unet", "vae_decoder"), ("vae_encoder", *TOKENIZERS)
TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")
OTHERS = ("transformer", "text_encoder_3")  # parts of models that are not run from such folders

Config = Mapping[str, Any]


def found(root: Path) -> bool:
    """Whether this is such a folder, be it a damaged one."""
    parts = (*NEEDED, *SPARE, *OTHERS)
    return alone.found(root) or ((root / INDEX).is_file() and any((root / part / GRAPH).is_file() for part in parts))


def among(names: Collection[str]) -> bool:
    """Whether these files are, or hold, those of such a folder."""
    return {INDEX, *(f"{part}/{GRAPH}" for part in NEEDED)} <= set(names)


def graphs_among(names: Collection[str]) -> list[str]:
    """The graphs among a folder's files."""
    return [f"{part}/{GRAPH}" for part in (*NEEDED, *SPARE) if f"{part}/{GRAPH}" in names]


def files_among(names: Collection[str]) -> list[str]:
    """What is read of a folder that holds these files, but for data that graphs keep beside them."""
    graphs = graphs_among(names)
    texts = [f"{folder}/{name}" for folder in TOKENIZERS.values() for name in (*TOKENIZER_FILES, *TOKENIZER_SETTINGS)]
    spare = [*(file.replace(GRAPH, CONFIG) for file in graphs), *texts]
    return [INDEX, SCHEDULER, *graphs, *(name for name in spare if name in names)]


def data_among(root: Path, names: Collection[str]) -> list[str]:
    """That data's files. Raises BundleError where any lies elsewhere."""
    try:
        read = {file: read_graph(root / file) for file in graphs_among(names)}
    except OnnxFileError as error:
        raise BundleError(str(error)) from None
    found = ((file, name) for file, graph in read.items() for name in locations(root / file, graph))
    return [file.replace(GRAPH, name) for file, name in found]


def read(root: Path) -> tuple[Manifest, dict[str, Adapter]]:
    """What a manifest would say of the folder, and an adapter for each component. Raises BundleError, one line naming
    the file and what is wrong with it. No graph's data may lie outside of the graph's folder."""
    try:
        return alone.read(root) if alone.found(root) else _read(root)
    except (CheckpointError, OnnxFileError, Misfit) as error:
        raise BundleError(str(error)) from None


def _read(root: Path) -> tuple[Manifest, dict[str, Adapter]]:
    index = read_json(root / INDEX)
    for part in OTHERS:
        if (root / part / GRAPH).is_file():
            raise BundleError(f"{root / part / GRAPH}: such a model is not run from another program's graphs yet")
    graphs = {part: root / part / GRAPH for part in (*SPARE, *NEEDED)}
    graphs = {part: file for part, file in graphs.items() if file.is_file()}
    for file in (*(f"{part}/{GRAPH}" for part in NEEDED), SCHEDULER):
        if not (root / file).is_file():
            raise BundleError(f"{root} lacks {file}, and, were it a bundle, diffrt.json: copy it again")
    if not set(TOKENIZERS) & set(graphs):
        raise BundleError(f"{root} lacks text_encoder/{GRAPH}: copy it again")
    models = {part: read_graph(file) for part, file in graphs.items()}
    files = [*graphs.values(), root / SCHEDULER]
    for part, model in models.items():
        files += data_files(graphs[part], model)
    configs = {part: _config(root, part, files) for part in graphs}
    vae = {**configs.get("vae_encoder", {}), **configs["vae_decoder"]}
    shape = latents(vae, models["vae_decoder"], configs["unet"], models["unet"])
    channels, factor = shape["channels"], shape["scale_factor"]

    pooled = "text_embeds" in models["unet"].inputs  # Stable Diffusion XL
    encoders = {part: folder for part, folder in TOKENIZERS.items() if part in graphs}
    made = {name: text_component(name, models[name], configs[name], pooled) for name in encoders}
    made["unet"] = unet_component(models["unet"], configs["unet"], channels)
    if "vae_encoder" in models:
        made["vae_encoder"] = encoder_component(models["vae_encoder"], vae, channels)
    made["vae_decoder"] = decoder_component(models["vae_decoder"], vae, channels)
    for folder in encoders.values():
        files += [root / folder / name for name in TOKENIZER_FILES if (root / folder / name).is_file()]

    takes = made["unet"].spec.inputs[0].shape[1]
    manifest = Manifest(
        generator=str(index.get("_class_name", "another program")),
        family="stable-diffusion-xl" if pooled else "stable-diffusion",
        tasks=_tasks(takes != channels, "vae_encoder" in graphs),
        defaults=_defaults(root, configs["unet"], factor, pooled),
        latents=shape,
        denoiser="unet",
        conditions=conditions({name: made[name].spec for name in encoders}, pooled),
        tokenizers={
            name: tokenizer_entry(root, configs[name].get("max_position_embeddings", 77), folder)
            for name, folder in encoders.items()
        },
        classes=(),
        even_sigmas=False,
        zero_negative=bool(index.get("force_zeros_for_empty_prompt", pooled)),
        preview=None,
        files={file.relative_to(root).as_posix(): FileEntry(file.stat().st_size, "") for file in files},
        components={name: _component(each.spec, models[name]) for name, each in made.items()},
        certificate=None,
        probe=None,
    )
    return manifest, {name: each.adapter for name, each in made.items()}


def _config(root: Path, part: str, files: list[Path]) -> Config:
    """A part's config; where there is none, as in what diffusers' script writes, nothing."""
    file = root / part / CONFIG
    if not file.is_file():
        return {}
    files.append(file)
    return read_json(file)


def _tasks(told: bool, encodes: bool) -> tuple[str, ...]:
    if told and not encodes:
        raise BundleError("the UNet is one for inpainting, which needs vae_encoder/model.onnx: copy the folder again")
    if told:
        return ("inpaint",)
    return ("text_to_image", "image_to_image", "inpaint") if encodes else ("text_to_image",)


def _defaults(root: Path, unet: Config, factor: int, pooled: bool) -> Defaults:
    size = unet.get("sample_size") or 512 // factor
    height, width = size if isinstance(size, list) and len(size) == 2 else (size, size)
    for side in (height, width):
        if type(side) is not int or not 0 < side <= 8192:
            raise BundleError(f"{root}/unet/config.json: sample_size is {size!r:.60}; it must be a number of pixels")
    name = read_json(root / SCHEDULER).get("_class_name")
    if not isinstance(name, str):
        raise BundleError(f"{root / SCHEDULER} names no _class_name: add the scheduler's")
    return Defaults(height * factor, width * factor, 50, 5.0 if pooled else 7.5, name)


def _component(spec: ComponentSpec, model: GraphFile) -> ComponentSpec:
    """With its one graph."""
    half = any(tensor.dtype == "F16" for tensor in model.tensors)
    variant = Variant(f"{spec.name}/{GRAPH}", "fp16" if half else "fp32", "portable")
    return ComponentSpec(spec.name, spec.inputs, spec.outputs, (variant,))
