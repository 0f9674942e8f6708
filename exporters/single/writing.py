"""Export a bundle or a checkpoint to one file, pipeline.onnx, and put beside it what a host must know."""

import json
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass

from diffrt import hub, pipeline, schedulers
from diffrt.bundle import Bundle
from diffrt.components.safety import NAME as SAFETY
from diffrt.errors import InvalidArgument, nearest
from diffrt.folders import Say, building, check_free, publish
from diffrt.providers import PROVIDERS

from ..bundled import opened
from .describe import describe, metadata
from .graph import SEGMENT, assemble
from .parts import load
from .source import PICTURED, TABLE, TASKS, Source
from .tables import baked
from .tokenizer import Vocabulary

GRAPH, DATA, RECORD = "pipeline.onnx", "pipeline.onnx.data", "pipeline.json"
STEPS = (1, 4, 8, 20)
UNROLLED = 8  # steps at most: the graph grows with them
INPUTS = {"plain": (), "segments": SEGMENT, "all": (*SEGMENT, *TABLE, *PICTURED, "noise")}
TOKENIZERS = ("ids", "op")
LARGEST = 2_000_000_000  # bytes of weights inside the file: protobuf ends at 2^31


def export(
    source: str | os.PathLike[str],
    dest: str | os.PathLike[str],
    *,
    revision: str | None = None,
    task: str = TASKS[0],
    size: tuple[int, int] | None = None,
    steps: Sequence[int] | None = None,
    scheduler: str | None = None,
    unrolled: bool = False,
    tokenizer: str = "ids",
    inputs: str = "plain",
    attention: str = "ort",
    precision: str = "fp32",
    prediction_type: str | None = None,
    verify: bool = True,
    force: bool = False,
    progress: Say = lambda line: None,
) -> Path:
    """Write `source`, a bundle or a checkpoint, as pipeline.onnx to the folder `dest`; on failure nothing is left.

    task       "text_to_image", or "image_to_image" or "inpaint": the graph begins with a picture of its own size
    size       (height, width) of the pictures in pixels, by default the model's own
    steps      the numbers of inference steps to bake the sampler's table in for; by default 1, 4, 8, 20 and the model's
    scheduler  the name of the sampler, by default the model's
    unrolled   no loop, from text alone: the rows of one number of steps, at most 8, one after another
    tokenizer  "ids", or "op": prompts are strings, and hosts load onnxruntime-extensions
    inputs     which inputs must be given beyond the plain ones: "plain" none, "segments" those of a run in segments,
               "all" also tables and noise. The others have defaults; APIs for JavaScript cannot feed those that do.
    attention  its form in the graph: "ort", "portable" or "sliced"
    precision, prediction_type, verify  of a checkpoint, as in exporters.export

    Raises what exporters.export does, and BundleError.
    """
    target = Path(dest).absolute()
    for name, given, known in (
        ("task", task, TASKS), ("tokenizer", tokenizer, TOKENIZERS), ("inputs", inputs, INPUTS),
        ("attention", attention, PROVIDERS["cpu"].attention),
    ):  # fmt: skip
        if given not in known:
            raise InvalidArgument(f"{name} {given!r} is unknown here; {nearest(str(given), known)}")
    if unrolled and (steps is None or len(steps) != 1 or not 1 <= steps[0] <= UNROLLED):
        raise InvalidArgument(f"an unrolled graph has one number of steps, from 1 to {UNROLLED}; got {steps}")
    if unrolled and task != TASKS[0]:
        raise InvalidArgument(f"an unrolled graph draws from text alone, and the task is {task}: take --loop scan")
    if size is not None:
        check_size(size, 8)
    check_free(target, RECORD, force)
    asked = {"precision": precision, "prediction_type": prediction_type}
    with (
        opened(source, revision, target, asked, progress, verify=verify, attention="portable") as bundle,
        building(target) as folder,
    ):
        manifest = bundle.manifest
        if task not in manifest.tasks:
            can = [each.replace("_", "-") for each in manifest.tasks if each in TASKS]
            fix = f"give --task {' or '.join(can)}" if can else "export the components"
            raise InvalidArgument(f"{bundle.root} does not do {task.replace('_', '-')}: {fix}")
        told = [spec.name for spec in manifest.components[manifest.denoiser].inputs]
        if told != ["sample", "timestep", "encoder_hidden_states"]:
            raise InvalidArgument(
                f"{bundle.root} is told of {', '.join(told[2:])}; a single graph is of a model that is told of "
                "encoder_hidden_states alone: export the components"
            )
        if SAFETY in manifest.components:
            progress(f"skipping {SAFETY}: a single graph has none; export the components to have it run")
        config = bundle.json(pipeline.SCHEDULER_CONFIG)
        sampler = schedulers.from_config(config, scheduler or manifest.defaults.scheduler)
        numbers = sorted(set(steps or (*STEPS, manifest.defaults.num_inference_steps)))
        progress(f"reading {bundle.root}")
        vocabulary = Vocabulary.read(bundle.root, manifest.tokenizers["text_encoder"])
        tables = baked(sampler, numbers, pictured=task != TASKS[0])
        parts = read(bundle, task, size, vocabulary, tokenizer == "op", attention, tables)
        model = assemble(parts, INPUTS[inputs], unrolled)
        NameFixPass()(model)
        record = describe(model, parts, manifest, vocabulary, sampler)
        model.metadata_props.update(metadata(record))
        progress(f"writing {GRAPH}")
        save(model, folder)
        (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", "utf-8")
        (folder / "vocab.json").write_text(vocabulary.vocab, "utf-8")
        (folder / "merges.txt").write_text(vocabulary.merges, "utf-8")
        for name in hub.PAGES[1:]:
            if (bundle.root / name).is_file():
                shutil.copyfile(bundle.root / name, folder / name)
        publish(folder, target)
    progress(f"wrote {target}")
    return target


def check_size(size: tuple[int, int], multiple: int) -> None:
    height, width = size
    if min(size) <= 0 or height % multiple or width % multiple:
        raise InvalidArgument(f"size {height}x{width}: height and width must be multiples of {multiple}")


def read(
    bundle: Bundle,
    task: str,
    size: tuple[int, int] | None,
    vocabulary: Vocabulary,
    op: bool,
    attention: str,
    tables: dict[str, np.ndarray],
) -> Source:
    """All that the graph is made of."""
    manifest = bundle.manifest
    factor, channels = manifest.latents["scale_factor"], manifest.latents["channels"]
    height, width = size or (manifest.defaults.height, manifest.defaults.width)
    check_size((height, width), math.lcm(8, factor))
    h, w = height // factor, width // factor
    axes = {"height": height, "width": width, "h": h, "w": w, "sequence": vocabulary.tokens}
    pictured = task != TASKS[0]
    sample = next(each for each in manifest.components["unet"].inputs if each.name == "sample")
    return Source(
        text_encoder=load(bundle, "text_encoder", ["last_hidden_state"], attention, axes),
        unet=load(bundle, "unet", ["out_sample"], attention, axes),
        decoder=load(bundle, "vae_decoder", ["sample"], attention, axes),
        tables=tables,
        preview=manifest.preview,
        vocabulary=vocabulary,
        op=op,
        latent=(channels, h, w),
        factor=factor,
        task=task,
        encoder=load(bundle, "vae_encoder", ["mean", "std"], attention, axes) if pictured else None,
        beside=sample.shape[1] != channels,
    )


def save(model: ir.Model, folder: Path) -> None:
    """One file, or two where the first would be larger than a file of its kind can be."""
    weights = [value.const_value for graph in model.graphs() for value in graph.initializers.values()]
    if sum(weight.nbytes for weight in weights if weight is not None) <= LARGEST:
        ir.save(model, folder / GRAPH)
    else:
        ir.save(model, folder / GRAPH, external_data=DATA, size_threshold_bytes=1 << 17, alignment=1 << 16)
