"""From a checkpoint to a bundle: torch, transformers and ONNX live here, and never in ``diffrt``.

>>> import exporters
>>> exporters.export("path/to/checkpoint", "path/to/bundle")
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffrt.manifest import TensorSpec

    from .exporting import export
    from .own import export_module
    from .spec import Component, Family

__all__ = ["Component", "Family", "TensorSpec", "export", "export_module"]
HOMES = {
    "export": "exporters.exporting",
    "export_module": "exporters.own",
    "Component": "exporters.spec",
    "Family": "exporters.spec",
    "TensorSpec": "diffrt.manifest",
}


def __getattr__(name: str) -> Any:
    if name in HOMES:  # on first use: the models alone can be imported without onnx
        return getattr(importlib.import_module(HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
