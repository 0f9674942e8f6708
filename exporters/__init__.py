"""From a checkpoint to a bundle: torch, transformers and ONNX live here, and never in ``diffrt``.

>>> import exporters
>>> exporters.export("path/to/checkpoint", "path/to/bundle")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .exporting import export

__all__ = ["export"]


def __getattr__(name: str) -> Any:
    if name == "export":  # on first use: the models alone can be imported without onnx
        from .exporting import export

        return export
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
