"""The folders that other programs write: a bundle's own graphs under their names, ranks and dtypes.

`optimum`: configs beside the graphs, time as a scalar, latent_parameters, data in model.onnx_data with that of
constants too. `script`: no configs, 32-bit ids, time for each picture, a VAE encoder that gives one draw (here the
mean, so that it can be compared), data in weights.pb.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SCALE = 0.18215
FLOAT, HALF, INT32, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT32, TensorProto.INT64
PARTS = {"text_encoder": "text_encoder/model", "text_encoder_2": "text_encoder_2/model", "unet": "unet/model",
         "vae_encoder": "vae/encoder", "vae_decoder": "vae/decoder"}  # fmt: skip


def write_foreign(
    bundle: Path, folder: Path, form: str, *, ids: int = INT64, time: int = FLOAT, steps: str | None = None,
    floats: int = FLOAT,
) -> Path:  # fmt: skip
    """`ids`, `time`, `floats`: the types at the graphs' boundaries; `steps`: the name of time's axis, None for a
    scalar."""
    script = form == "script"
    bundle = shutil.copytree(bundle, folder.with_name(f"{folder.name}-copy"))  # the onnx package reads no hard links
    parts = {part: graph for part, graph in PARTS.items() if (bundle / f"{graph}.onnx").is_file()}
    for part, graph in parts.items():
        model = onnx.load(bundle / f"{graph}.onnx")
        if part.startswith("text_encoder"):
            before(model, "input_ids", ids, ["batch", "sequence"], lambda x, y: [cast(x, y, INT64)])
            every_layer(model)
        elif part == "unet":
            before(model, "timestep", time, [steps] if steps else [], spread)
        elif part == "vae_decoder":
            constant(model, "scale", SCALE)
            before(model, "latent_sample", FLOAT, ["batch", 4, "h", "w"], lambda x, y: [node("Mul", [x, "scale"], y)])
        else:
            constant(model, "scale", SCALE)
            (sampled if script else moments)(model)
        if floats != FLOAT:
            retype(model, floats)
        place = folder / part / "model.onnx"
        place.parent.mkdir(parents=True)
        data = "weights.pb" if script else "model.onnx_data"
        options = {"size_threshold": 100, "convert_attribute": True} if not script else {}
        onnx.save(model, place, save_as_external_data=True, location=data, **options)
        if not script:
            shutil.copyfile(bundle / graph.split("/")[0] / "config.json", place.parent / "config.json")
    for part in ("tokenizer", "tokenizer_2", "scheduler"):
        if (bundle / part).is_dir():
            shutil.copytree(bundle / part, folder / part)
    index = {
        "_class_name": "OnnxStableDiffusionPipeline" if script else "StableDiffusionPipeline",
        "_diffusers_version": "0.42.1", "feature_extractor": [None, None], "safety_checker": [None, None],
        "requires_safety_checker": False, "scheduler": ["diffusers", "PNDMScheduler"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        **{part: ["diffusers", "OnnxRuntimeModel"] for part in parts},
    }  # fmt: skip
    (folder / "model_index.json").write_text(json.dumps(index))
    shutil.rmtree(bundle)
    return folder


def node(op: str, inputs: list[str], output: str, **attributes) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [output], **attributes)


def cast(x: str, y: str, to: int) -> onnx.NodeProto:
    return node("Cast", [x], y, to=to)


def constant(model: onnx.ModelProto, name: str, value) -> None:
    dtype = np.int64 if isinstance(value, list) else np.float32
    model.graph.initializer.append(numpy_helper.from_array(np.array(value, dtype), name))


def before(model: onnx.ModelProto, name: str, dtype: int, shape: list, make: Callable[[str, str], list]) -> None:
    """Put nodes between an input, which gets a dtype and a shape, and all that reads it."""
    inner = f"{name}.inner{len(model.graph.node)}"
    for each in model.graph.node:
        each.input[:] = [inner if x == name else x for x in each.input]
    nodes = [*make(name, inner), *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    place = next(i for i, x in enumerate(model.graph.input) if x.name == name)
    model.graph.input[place].CopyFrom(helper.make_tensor_value_info(name, dtype, shape))


def spread(time: str, inner: str) -> list[onnx.NodeProto]:
    """A scalar, [1] or [B] of any type -> [B] f32."""
    return [
        cast(time, "time.float", FLOAT),
        node("Shape", ["sample"], "time.batch", start=0, end=1),
        node("Expand", ["time.float", "time.batch"], inner),
    ]


def every_layer(model: onnx.ModelProto) -> None:
    """Of Stable Diffusion XL's encoders of three layers: that of the last but one among others, which are nonsense."""
    for value in [each for each in model.graph.output if each.name == "hidden_states"]:
        for name, op in (("hidden_states.1", "Neg"), ("hidden_states.2", "Identity"), ("hidden_states.3", "Neg"),
                         ("last_hidden_state", "Neg")):  # fmt: skip
            model.graph.node.append(node(op, ["hidden_states"], name))
            model.graph.output.add().CopyFrom(value)
            model.graph.output[-1].name = name
        model.graph.output.remove(value)


def unscaled(model: onnx.ModelProto) -> None:
    model.graph.node.extend(node("Div", [x, "scale"], f"{x}.unscaled") for x in ("mean", "std"))


def gives(model: onnx.ModelProto, name: str, channels: int) -> None:
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(name, FLOAT, ["batch", channels, "h", "w"]))


def sampled(model: onnx.ModelProto) -> None:
    unscaled(model)
    model.graph.node.append(node("Identity", ["mean.unscaled"], "latent_sample"))
    gives(model, "latent_sample", 4)


def moments(model: onnx.ModelProto) -> None:
    unscaled(model)
    model.graph.node.extend(
        [
            node("Log", ["std.unscaled"], "logstd"),
            node("Add", ["logstd", "logstd"], "logvar"),
            node("Concat", ["mean.unscaled", "logvar"], "latent_parameters", axis=1),
        ]
    )
    gives(model, "latent_parameters", 8)


def retype(model: onnx.ModelProto, dtype: int) -> None:
    """Floats at the boundary are of another type, all but time."""
    for value in list(model.graph.input):
        kind = value.type.tensor_type
        if kind.elem_type == FLOAT and value.name != "timestep":
            shape = [d.dim_param or d.dim_value for d in kind.shape.dim]
            before(model, value.name, dtype, shape, lambda x, y: [cast(x, y, FLOAT)])
    for value in model.graph.output:
        name, value.type.tensor_type.elem_type = value.name, dtype
        for each in model.graph.node:
            each.output[:] = [f"{name}.float" if x == name else x for x in each.output]
            each.input[:] = [f"{name}.float" if x == name else x for x in each.input]
        model.graph.node.append(cast(f"{name}.float", name, dtype))
