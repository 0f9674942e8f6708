"""diffrt: export a diffusion model once, run it anywhere ONNX Runtime runs, without PyTorch.

>>> import diffrt
>>> pipe = diffrt.load("emoji")
>>> pipe("a red apple", seed=7).images[0].save("apple.png")
"""

import importlib
from typing import TYPE_CHECKING, Any

from diffrt.errors import (
    BundleError,
    CheckpointError,
    DiffrtError,
    ExportError,
    HubError,
    InvalidArgument,
    NumericalError,
    ProviderError,
)

if TYPE_CHECKING:
    from diffrt import hub, schedulers
    from diffrt.pipeline import Pipeline, load

__version__ = "0.1.0"

__all__ = [
    "BundleError",
    "CheckpointError",
    "DiffrtError",
    "ExportError",
    "HubError",
    "InvalidArgument",
    "NumericalError",
    "Pipeline",
    "ProviderError",
    "__version__",
    "hub",
    "load",
    "schedulers",
]


def __getattr__(name: str) -> Any:
    """On first use, so that importing diffrt stays quick."""
    if name in ("hub", "schedulers"):
        return importlib.import_module(f"diffrt.{name}")
    if name in ("Pipeline", "load"):
        return getattr(importlib.import_module("diffrt.pipeline"), name)
    raise AttributeError(f"module 'diffrt' has no attribute {name!r}")
