"""Graph rewrites. Each is a function ``ir.Model -> int`` that says how many places it changed."""

from collections.abc import Callable

import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, RemoveUnusedNodesPass

from .attention_3d import attention_3d
from .constants import fold_constants
from .identities import remove_identities
from .reshapes import constant_reshapes
from .resizes import resize_spatial
from .splits import merge_splits

Rewrite = Callable[[ir.Model], int]
CLEAN: tuple[Rewrite, ...] = (
    resize_spatial,
    fold_constants,
    merge_splits,
    remove_identities,
    constant_reshapes,
    attention_3d,
)


def clean(model: ir.Model) -> dict[str, int]:
    """Run every rewrite, then drop what nothing uses. Returns how often each applied."""
    counts = {}
    for rewrite in CLEAN:
        counts[rewrite.__name__] = rewrite(model)
        RemoveUnusedNodesPass()(model)
    CommonSubexpressionEliminationPass()(model)
    RemoveUnusedNodesPass()(model)
    return counts
