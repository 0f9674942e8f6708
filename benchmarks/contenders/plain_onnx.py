"""What other exporters give: diffusers' module through torch.onnx.export as it stands, in ONNX Runtime as it stands."""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders.base import DIFFUSERS, Contender, NotHere
from benchmarks.models import PARTS, Arrays, Call, Job
from benchmarks.processes import command

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def load(contender: Contender, job: Job) -> Call:
    import onnxruntime as ort

    wanted = PROVIDERS[contender.provider]
    if wanted not in ort.get_available_providers():
        raise NotHere(f"this onnxruntime has no {wanted}")
    session = ort.InferenceSession(str(graph(contender, job)), providers=[wanted])
    types = {each.name: each.type for each in session.get_inputs()}
    return lambda a: {"out": session.run(None, renamed(job, a, types))[0].astype(np.float32)}


def renamed(job: Job, arrays: Arrays, types: dict[str, str]) -> Arrays:
    """Feeds in the graph's own names and types: the exporter keeps the order of the arguments."""
    values: list[Any] = list(arrays.values())
    if job.stage == "vae":
        values[0] = values[0] / job.config("vae")["scaling_factor"]
    halves = (kind == "tensor(float16)" for kind in types.values())
    values = [each.astype(np.float16) if half else each for each, half in zip(values, halves, strict=True)]
    return dict(zip(types, values, strict=True))


def graph(contender: Contender, job: Job) -> Path:
    (part,) = PARTS[job.stage]
    return job.of.plain(job.folder, part, weights(contender))


def weights(contender: Contender) -> str:
    """The precision of those in the graph."""
    return "fp16" if contender.precision == "fp16" else "fp32"


def write_graph(contender: Contender, job: Job, log: Path) -> None:
    """Where it is not there yet."""
    file = graph(contender, job)
    if not file.exists():
        (part,) = PARTS[job.stage]
        words = str(job.checkpoint), part, weights(contender), str(file)
        command("-m", "benchmarks.contenders.plain_onnx", *words, log=log)


def export(checkpoint: Path, part: str, precision: str, file: Path) -> None:
    """Batch, height and width are free: none of them is 1 in the example, which would be taken for a constant."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    classes: dict[str, Any] = {"text_encoder": CLIPTextModel, "unet": UNet2DConditionModel, "vae": AutoencoderKL}
    fp16 = any(".fp16." in each.name for each in (checkpoint / part).glob("*.safetensors"))
    module = classes[part].from_pretrained(str(checkpoint / part), variant="fp16" if fp16 else None).eval()
    dtype = {"fp32": torch.float32, "fp16": torch.float16}[precision]
    module = module.to(dtype)
    auto, config = torch.export.Dim.AUTO, module.config
    plane = {0: auto, 2: auto, 3: auto}
    arguments: tuple[Any, ...]
    shapes: tuple[Any, ...]
    if part == "text_encoder":
        arguments, shapes = (torch.ones(2, config.max_position_embeddings, dtype=torch.int64),), ({0: auto},)
    elif part == "unet":
        words = torch.randn(2, 77, config.cross_attention_dim, dtype=dtype)
        arguments = torch.randn(2, config.in_channels, 64, 64, dtype=dtype), torch.full((2,), 500.0), words
        shapes = plane, {0: auto}, {0: auto, 1: auto}
    else:
        arguments, shapes = (torch.randn(2, config.latent_channels, 64, 64, dtype=dtype),), (plane,)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name("partial.onnx")
    torch.onnx.export(Plain(module, part), arguments, str(partial), dynamo=True, dynamic_shapes=shapes)
    partial.rename(file)  # last: the weights lie beside it under the name that the graph knows


def Plain(module: Any, part: str) -> Any:
    """The module as a function of tensors."""
    import torch

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

    class Text(Wrapped):
        def forward(self, input_ids: Any) -> Any:
            return self.module(input_ids).last_hidden_state

    class UNet(Wrapped):
        def forward(self, sample: Any, timestep: Any, encoder_hidden_states: Any) -> Any:
            return self.module(sample, timestep, encoder_hidden_states, return_dict=False)[0]

    class Decoder(Wrapped):
        def forward(self, latents: Any) -> Any:
            return self.module.decode(latents, return_dict=False)[0]

    return {"text_encoder": Text, "unet": UNet, "vae": Decoder}[part]().eval()


NAME = "ONNX Runtime"
NEEDS = (*DIFFUSERS, "onnx", "onnxscript", "onnxruntime")
GRAPHS = ("text", "denoiser", "vae")  # there is no pipeline around them
CONTENDERS = (
    Contender("plain-onnx", NAME, "fp32", "cpu", NEEDS, load, write_graph, stages=GRAPHS, speed=0.55, start=90),
    Contender("cuda-plain-onnx", NAME, "fp16", "cuda", NEEDS, load, write_graph, stages=GRAPHS, start=90),
)

if __name__ == "__main__":
    export(Path(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4]))
