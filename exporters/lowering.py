"""The written forms of a traced graph.

portable  opset-23 Attention and GroupNormalization as they are: any runtime.
ort       com.microsoft.MultiHeadAttention (flash attention) and InstanceNormalization: ONNX Runtime's own kernels.
cuda      com.microsoft.MultiHeadAttention and GroupNorm: its kernels for CUDA, which has no other of a norm in fp16.
sliced    self-attention over query chunks, for runtimes without flash attention: the score matrix is never whole.
"""

from collections.abc import Callable

import onnx_ir as ir

from .attention import to_multi_head, to_query_chunks
from .norms import to_channels_last_norm, to_instance_norm

LOWERINGS: dict[str, tuple[Callable[[ir.Model], int], ...]] = {
    "portable": (),
    "ort": (to_multi_head, to_instance_norm),
    "cuda": (to_multi_head, to_channels_last_norm),
    "sliced": (to_query_chunks, to_instance_norm),
}
CHOICES: dict[str, tuple[str, ...]] = {  # --attention -> the forms written, the CPU's best one last
    "auto": ("portable", "cuda", "ort"),
    "portable": ("portable",),
    "ort": ("ort",),
    "sliced": ("sliced",),
}


def lower(model: ir.Model, form: str) -> int:
    """Bring a traced graph into one form, in place. Returns how many nodes were lowered."""
    return sum(rewrite(model) for rewrite in LOWERINGS[form])
