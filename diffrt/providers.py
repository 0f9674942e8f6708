"""Execution providers as literal records: one per target."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diffrt.errors import ProviderError, nearest


@dataclass(frozen=True)
class Provider:
    name: str
    library: str  # onnxruntime or openvino
    runtime_name: str  # what the library calls it
    extra: str  # pip install 'diffrt[extra]'
    attention: tuple[str, ...]  # forms of attention, best first
    options: Mapping[str, Any] = field(default_factory=dict)  # passed to the library
    shrink: str = ""  # the memory arena that gives back what it can after each run, as ONNX Runtime calls it
    tolerance: float = 0.0  # relative L2 that its arithmetic is allowed, where a graph's own tolerance is less
    fast_load: bool = False  # weights are left where they are: ready sooner, in less memory, and slower
    device: str = ""  # where ONNX Runtime can keep a run's state, as it calls it; "": nowhere
    step: bool = False  # it prefers a step graph, where the bundle has one, to the denoiser's
    held: Mapping[str, Any] = field(default_factory=dict)  # options beside, where all inputs and outputs stay in place
    preload: bool = False  # CUDA's libraries are taken from where pip has put them


PROVIDERS: dict[str, Provider] = {
    "cpu": Provider(
        "cpu", "onnxruntime", "CPUExecutionProvider", "cpu", ("ort", "portable", "sliced"), shrink="cpu:0", device="cpu"
    ),
    # bfloat16 has 8 bits of precision
    "openvino": Provider("openvino", "openvino", "CPU", "openvino", ("portable", "sliced"), tolerance=0.1),
    "openvino-fp32": Provider(
        "openvino-fp32", "openvino", "CPU", "openvino", ("portable", "sliced"), {"INFERENCE_PRECISION_HINT": "f32"}
    ),
    # float32 is not cut to 10 bits (TF32). Nothing shrinks its arena: a captured graph writes where it once did.
    # The form "portable" is not here: ONNX Runtime 1.31's Attention was 0.2 off in a UNet in fp16, on an H200.
    "cuda": Provider(
        "cuda", "onnxruntime", "CUDAExecutionProvider", "cuda", ("cuda", "ort"),
        {"prefer_nhwc": "1", "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC",
         "arena_extend_strategy": "kSameAsRequested"},
        device="cuda", step=True, held={"enable_cuda_graph": "1"}, preload=True,
    ),
}  # fmt: skip


def provider(name: str) -> Provider:
    """The record of a name. Unknown: ProviderError. Whether it is installed is asked when a session opens."""
    if name not in PROVIDERS:
        raise ProviderError(f"unknown provider {name!r}: {nearest(str(name), ['auto', *PROVIDERS])}")
    return PROVIDERS[name]
