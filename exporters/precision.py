"""Measuring values over a short generation, each component on its fp32 graph in its own process; and what of them fp16
cannot hold.

Three prompts, guided, over a few evaluations from the noisiest to the last, then decoder and encoder on the very
latents and pictures that came out; and what the certificate is going to feed.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from safetensors.numpy import load_file, save_file

from diffrt.components.tokenizer import Tokenizer
from diffrt.errors import ExportError
from diffrt.folders import Say
from diffrt.manifest import Defaults

from .checkpoint import Checkpoint
from .passes.widen import infer_types, widen
from .ranges import LOGITS, OUTPUTS, Ranges, beyond, computing, observed
from .spec import Component
from .trace import declare_shapes
from .verify import run_worker
from .worker import SEED, noise_for, spoken, starting, time_of

Size = tuple[int, int] | None  # (height, width) in pixels of a graph's pictures, or any

PROMPTS = (
    "a red apple",
    "a photograph of an astronaut riding a horse on the moon, highly detailed, sharp focus",
    "the sea at night",
)
LARGEST_SIDE = 32  # of the latents


def widen_overflows(
    folder: Path,
    checkpoint: Checkpoint,
    components: tuple[Component, ...],
    traced: Mapping[str, Mapping[Size, ir.Model]],
    defaults: Defaults,
    tokenizers: Mapping[str, Mapping[str, Any]],
    say: Say,
) -> dict[str, dict[str, float]]:
    """Make what overflows compute in fp32, in each component's graph of any size (None) and in those of a fixed one.

    Returns, for each component, the nodes that are the cause and their largest magnitude.
    """
    for models in traced.values():
        for model in models.values():
            infer_types(model)
    of_any_size = {name: models[None] for name, models in traced.items()}
    watched = {name: observed(model) for name, model in of_any_size.items()}
    causes: dict[str, dict[str, float]] = {}
    for name, largest in measure(folder, checkpoint, components, watched, defaults, tokenizers, say).items():
        ranges = Ranges(largest[OUTPUTS], largest.get(LOGITS, np.zeros(0, np.float32)))
        order = [node.op_type for node in computing(of_any_size[name])]
        for size, model in traced[name].items():
            if [node.op_type for node in computing(model)] != order:
                raise ExportError(f"{name}: the graph of size {size} has other nodes; export without --static")
            nodes, causes_here = beyond(model, ranges)
            widen(model, nodes)
            causes[name] = causes.get(name, causes_here)  # of any size: it comes first
    return causes


def measure(
    folder: Path,
    checkpoint: Checkpoint,
    components: tuple[Component, ...],
    watched: Mapping[str, ir.Model],
    defaults: Defaults,
    tokenizers: Mapping[str, Mapping[str, Any]],
    say: Say,
) -> dict[str, dict[str, np.ndarray]]:
    """The largest that each component's graph for any size gives of the outputs it has beside its own, whose names
    begin with range_of. ``folder`` is the bundle so far."""
    latents = checkpoint.family.latents(checkpoint.configs)
    sides = [min(LARGEST_SIDE, side // latents["scale_factor"]) for side in (defaults.height, defaults.width)]
    found: dict[str, dict[str, np.ndarray]] = {}
    family = checkpoint.family
    texts, ids = ["", "", "", *PROMPTS], {}
    for encoder, entry in tokenizers.items():
        ids[f"ids/{encoder}"] = Tokenizer.of(folder, entry)(texts).ids
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        state, inputs = scratch / "state.safetensors", scratch / "inputs.safetensors"
        denoiser = next(c for c in components if c.name == family.denoiser)
        noise = noise_for(denoiser.inputs, len(PROMPTS), latents["channels"], sides)
        words = spoken(checkpoint.conditions, checkpoint.tokenizers)
        save_file(ids | starting(noise, denoiser.inputs, words, denoiser.axes), state)
        for component in sorted(components, key=lambda c: c.name == "vae_encoder"):  # it takes the decoder's pictures
            say(f"measuring {component.name} over a short generation")
            graph = folder / component.part / f"{component.graph}.ranges.onnx"
            model = watched[component.name]
            declare_shapes(model, component, {})
            ir.save(model, graph)
            save_file(component.example(component.axes, SEED), inputs)
            job = {
                "side": "range", "component": component.name, "bundle": str(folder),
                "files": [f"{component.part}/{graph.name}"], "inputs": str(inputs), "state": str(state),
                "scheduler": dict(checkpoint.scheduler) | {"_class_name": defaults.scheduler},
                "denoiser": family.denoiser, "conditions": checkpoint.conditions, "time": time_of(denoiser.inputs),
            }  # fmt: skip
            found[component.name] = load_file(run_worker(job, scratch))
            graph.unlink()
    return found
