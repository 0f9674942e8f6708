"""From traced fp32 graphs to int8 ones: calibrate on a short generation, keep what is not faster, write the weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from diffrt.folders import Say
from diffrt.manifest import Defaults

from ..checkpoint import Checkpoint
from ..precision import Size, measure
from ..spec import Component
from ..weights import Weights, attach
from . import weights as int8_weights
from .calibration import observed, read
from .layers import Layer, layers
from .rewriting import quantize
from .timing import faster


def quantize_components(
    folder: Path,
    checkpoint: Checkpoint,
    components: tuple[Component, ...],
    traced: Mapping[str, Mapping[Size, ir.Model]],
    weights: Mapping[str, Weights],
    defaults: Defaults,
    tokenizers: Mapping[str, Mapping[str, Any]],
    say: Say,
) -> dict[str, int]:
    """Rewrite the graphs of the denoiser and the decoder in place, point them at weights that are written into
    ``folder``, and remove the float ones of those parts there. Returns how many layers of each component."""
    chosen_parts = (checkpoint.family.denoiser, "vae_decoder")
    of_any_size = {name: models[None] for name, models in traced.items()}
    watched = {name: observed(model) if name in chosen_parts else model for name, model in of_any_size.items()}
    found = measure(folder, checkpoint, components, watched, defaults, tokenizers, say)
    counts: dict[str, int] = {}
    for part in {component.part: None for component in components if component.name in chosen_parts}:
        inside = [component for component in components if component.part == part]
        quantized: list[Layer] = []
        for component in inside:
            if component.name not in chosen_parts:
                continue
            say(f"timing the layers of {component.name}")
            here = layers(of_any_size[component.name])
            ranges = read(of_any_size[component.name], found[component.name])
            chosen = {name for name, wins in faster(here, ranges).items() if wins}
            quantized += [here[name] for name in chosen]
            counts[component.name] = len(chosen)
            for model in traced[component.name].values():
                quantize(model, {name: ranges[name] for name in chosen})
        say(f"writing {part} in 8 bits")
        graphs = [model.graph for component in inside for model in traced[component.name].values()]
        placed = int8_weights.write(
            weights[part], quantized, folder / part, {name for graph in graphs for name in graph.initializers}
        )
        for component in inside:
            for model in traced[component.name].values():
                attach(model, placed, component.real)
        for file in filter(None, (*weights[part].files, weights[part].index)):
            (folder / part / file.name).unlink()
    return counts
