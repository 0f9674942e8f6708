"""A folder that holds one denoiser's graph, whoever wrote it, with denoiser.json to say what its inputs are:

    {"graph": "net.onnx", "inputs": {"sample": "noisy", "sigma": "noise_level"}, "output": "clean"}

`inputs` has the graph's names for `sample` and for `timestep` or `sigma`, which mean what they mean in a bundle; any
other input of the graph is a condition under its own name. The sampler is scheduler/scheduler_config.json's. `size`
([height, width]) is needed where the graph fixes none, and `num_inference_steps` (50) is the default of a call.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffrt.configs import read_json
from diffrt.errors import BundleError
from diffrt.foreign.adapters import DTYPES, Adapted, Adapter, adapted, cast, same
from diffrt.foreign.externals import data_files
from diffrt.foreign.unet import times
from diffrt.manifest import ComponentSpec, Defaults, FileEntry, Manifest, TensorSpec, Variant
from diffrt.onnx_file import GraphFile, Value, read_graph
from diffrt.strict import inner_path, keyed, list_of, record, text, whole

DECLARATION, SCHEDULER = "denoiser.json", "scheduler/scheduler_config.json"
NAME = "denoiser"

_declaration = record(
    dict,
    spare=("size", "num_inference_steps"),
    graph=inner_path,
    inputs=keyed(lambda key, value, where: text(value, where)),
    output=text,
    size=list_of(whole(1, 8192), 2, 2),
    num_inference_steps=whole(1, 100_000),
)


def found(root: Path) -> bool:
    return (root / DECLARATION).is_file()


def read(root: Path) -> tuple[Manifest, dict[str, Adapter]]:
    """As foreign.read does. Raises BundleError, OnnxFileError, CheckpointError, Misfit."""
    declared: Mapping[str, Any] = _declaration(read_json(root / DECLARATION), DECLARATION)
    graph = root / declared["graph"]
    for file in (graph, root / SCHEDULER):
        if not file.is_file():
            raise BundleError(f"{file} is missing: {root / DECLARATION} needs it")
    scheduler = read_json(root / SCHEDULER).get("_class_name")
    if not isinstance(scheduler, str):
        raise BundleError(f"{root / SCHEDULER} names no _class_name: add the scheduler's")
    model = read_graph(graph)
    made = component(graph.name, model, declared)
    channels, *sides = made.spec.inputs[0].shape[1:]
    size = declared.get("size") or [side for side in sides if isinstance(side, int)]
    if len(size) != 2:
        raise BundleError(f"{root / DECLARATION} has no size, and {graph.name} fixes none: add [height, width]")
    height, width = size
    half = any(tensor.dtype == "F16" for tensor in model.tensors)
    variant = Variant(declared["graph"], "fp16" if half else "fp32", "portable")
    files = [graph, *data_files(graph, model), root / SCHEDULER]
    manifest = Manifest(
        generator="another program",
        family="alone",
        tasks=("unconditional",),
        defaults=Defaults(height, width, declared.get("num_inference_steps", 50), 1.0, scheduler),
        latents={"channels": channels, "scale_factor": 1},
        denoiser=NAME,
        conditions={},
        tokenizers={},
        classes=(),
        even_sigmas=False,
        zero_negative=False,
        preview=None,
        files={file.relative_to(root).as_posix(): FileEntry(file.stat().st_size, "") for file in files},
        components={NAME: ComponentSpec(NAME, made.spec.inputs, made.spec.outputs, (variant,))},
        certificate=None,
        probe=None,
    )
    return manifest, {NAME: made.adapter}


def component(name: str, graph: GraphFile, declared: Mapping[str, Any]) -> Adapted:
    """The denoiser of a graph file of that name."""
    given = declared["inputs"]
    if set(given) not in ({"sample", "timestep"}, {"sample", "sigma"}):
        names = ", ".join(given) or "nothing"
        raise BundleError(f"{DECLARATION}: inputs has {names}; it must name sample, and timestep or sigma")
    for theirs, among in [*((each, graph.inputs) for each in given.values()), (declared["output"], graph.outputs)]:
        if theirs not in among:
            raise BundleError(f"{DECLARATION} names {theirs!r}, which {name} has not; it has {', '.join(among)}")
    for value in graph.inputs.values():
        if value.dtype not in DTYPES:
            raise BundleError(f"{name} takes {value.name} as {value.dtype}; known: {', '.join(DTYPES)}")
    sample = graph.inputs[given["sample"]]
    axes = _axes(sample)
    if len(axes) != 4 or not isinstance(axes[1], int):
        raise BundleError(
            f"{name} takes {sample.name} {list(sample.shape or ())}; it must take [batch, C, height, width], C fixed"
        )
    (time,) = set(given) - {"sample"}
    value = graph.inputs[given[time]]
    inputs = {
        TensorSpec("sample", "float32", ("batch", *axes[1:])): (sample.name, cast(NAME, sample)),
        TensorSpec(time, "float32", ("batch",)): (value.name, times(value, sample)),
    }
    for other in graph.inputs.values():
        if other.name not in given.values():
            kind = "int64" if other.dtype.startswith("I") else "float32"
            inputs[TensorSpec(other.name, kind, ("batch", *_axes(other)[1:]))] = (other.name, cast(NAME, other))
    gives = TensorSpec("denoised" if time == "sigma" else "out_sample", "float32", ("batch", *axes[1:]))
    return adapted(NAME, inputs, {gives: (declared["output"], same)})


def _axes(value: Value) -> tuple[int | str, ...]:
    """An axis of any size has a name, be it its place's."""
    return tuple(size or f"{value.name}.{i}" for i, size in enumerate(value.shape or ()))
