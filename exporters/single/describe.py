"""What a host must know of a graph: in its metadata, and as JSON beside it for hosts that cannot read that."""

from collections import Counter
from typing import Any

import onnx_ir as ir

from diffrt import __version__
from diffrt.manifest import Manifest
from diffrt.request import DEFAULT_STRENGTH
from diffrt.schedulers import Scheduler

from .source import Source
from .tokenizer import Vocabulary

FORMAT = 1


def describe(
    model: ir.Model, source: Source, manifest: Manifest, vocabulary: Vocabulary, scheduler: Scheduler
) -> dict[str, Any]:
    """JSON values. `steps` are the numbers that have a table and `evaluations` those of the model that each takes.
    Where runs begin with a picture, that is a list: what the last step takes, the last two, and so on."""
    rows = Counter(source.tables["table_steps"].tolist())
    height, width = source.pixels
    graph = model.graph
    names = [value.name for value in graph.inputs]
    return {
        "format": FORMAT,
        "generator": f"diffrt {__version__}",
        "task": source.task,
        "height": height,
        "width": width,
        "latents": list(source.latent),
        "loop": "scan" if "num_inference_steps" in names else "unrolled",
        "tokenizer": "op" if source.op else "ids",
        "tokens": vocabulary.tokens,
        "start_token": vocabulary.start,
        "end_token": vocabulary.end,
        "pad_token": vocabulary.pad,
        "scheduler": scheduler.config["_class_name"],
        "steps": list(rows),
        "evaluations": list(rows.values()) if source.encoder is None else evaluations(source),
        "default_steps": min(rows, key=lambda n: abs(n - manifest.defaults.num_inference_steps)),
        "default_guidance": manifest.defaults.guidance_scale,
        **({} if source.encoder is None else {"default_strength": DEFAULT_STRENGTH[source.task == "inpaint"]}),
        "inputs": {str(v.name): spelled(v) | {"required": v.name not in graph.initializers} for v in graph.inputs},
        "outputs": {str(v.name): spelled(v) for v in graph.outputs},
    }


def evaluations(source: Source) -> list[list[int]]:
    rows = Counter(zip(source.tables["table_steps"].tolist(), source.tables["table_run"].tolist(), strict=True))
    return [[rows[n, k] for k in range(1, n + 1)] for n in source.steps]


def spelled(value: ir.Value) -> dict[str, Any]:
    assert value.dtype is not None and value.shape is not None
    return {
        "dtype": "string" if value.dtype == ir.DataType.STRING else value.dtype.numpy().name,
        "shape": [size if isinstance(size, int) else size.value for size in value.shape],
    }


def metadata(record: dict[str, Any]) -> dict[str, str]:
    """The same as texts, lists as 1,4,8 and lists of them as 1;1,2,3,4; without the inputs and outputs, which a graph
    says itself."""
    return {name: text(value) for name, value in record.items() if not isinstance(value, dict)}


def text(value: Any) -> str:
    if not isinstance(value, list):
        return str(value)
    return (";" if value and isinstance(value[0], list) else ",").join(map(text, value))
