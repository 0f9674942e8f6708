"""A CLIP text encoder's graph: ids to last_hidden_state, or, for Stable Diffusion XL, to the last layer but one's."""

import re
from collections.abc import Mapping
from typing import Any

from diffrt.errors import BundleError
from diffrt.foreign.adapters import Adapted, adapted, axis, cast, needed, only_known, output, same
from diffrt.manifest import ComponentSpec, TensorSpec
from diffrt.onnx_file import GraphFile

IDS = TensorSpec("input_ids", "int64", ("batch", "sequence"))


def text_component(name: str, graph: GraphFile, config: Mapping[str, Any], pooled: bool) -> Adapted:
    """`pooled`: for a UNet that is also told of the whole prompt."""
    only_known(name, graph, (IDS.name,))
    tokens = _last_but_one(name, graph, config) if pooled else output(graph, "last_hidden_state")
    width = axis(graph.outputs.get(tokens), 2) or "width"
    outputs = {TensorSpec("hidden_states", "float32", ("batch", "sequence", width)): (tokens, same)}
    if pooled and "text_embeds" in graph.outputs:
        whole = axis(graph.outputs["text_embeds"], 1) or "pooled"
        outputs[TensorSpec("text_embeds", "float32", ("batch", whole))] = ("text_embeds", same)
    return adapted(name, {IDS: (IDS.name, cast(name, needed(name, graph, IDS.name)))}, outputs)


def conditions(encoders: Mapping[str, ComponentSpec], pooled: bool) -> dict[str, tuple[str, ...]]:
    """What the UNet is told: the tokens of all encoders side by side, and of the whole prompt."""
    told = {"encoder_hidden_states": tuple(f"{name}.hidden_states" for name in encoders)}
    if pooled:
        whole = [name for name, spec in encoders.items() if any(each.name == "text_embeds" for each in spec.outputs)]
        if not whole:
            raise BundleError("the UNet takes text_embeds, which no text encoder's graph gives: copy the folder again")
        told["text_embeds"] = (f"{whole[-1]}.text_embeds",)
    return told


def _last_but_one(name: str, graph: GraphFile, config: Mapping[str, Any]) -> str:
    layers = [int(found[1]) for each in graph.outputs if (found := re.fullmatch(r"hidden_states\.(\d{1,4})", each))]
    last = config.get("num_hidden_layers") or max(layers, default=0)
    if not isinstance(last, int) or last - 1 not in layers:
        raise BundleError(
            f"{name}/model.onnx gives {', '.join(graph.outputs)}; Stable Diffusion XL needs hidden_states.N of "
            "the last layer but one"
        )
    return f"hidden_states.{last - 1}"
