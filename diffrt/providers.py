"""Execution providers as literal records: one per target that diffrt has been run on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diffrt.errors import ProviderError, nearest


@dataclass(frozen=True)
class Provider:
    name: str
    runtime_name: str  # what ONNX Runtime calls it
    extra: str  # pip install 'diffrt[extra]'
    attention: tuple[str, ...]  # forms of attention, best first
    options: Mapping[str, Any] = field(default_factory=dict)  # passed to ONNX Runtime
    shrink: str = ""  # the memory arena that gives back what it can after each run, as ONNX Runtime calls it


PROVIDERS: dict[str, Provider] = {
    "cpu": Provider("cpu", "CPUExecutionProvider", "cpu", ("ort", "portable", "sliced"), shrink="cpu:0"),
}


def provider(name: str) -> Provider:
    """The record of a name. Unknown: ProviderError. Whether it is installed is asked when a session opens."""
    if name not in PROVIDERS:
        raise ProviderError(f"unknown provider {name!r}: {nearest(str(name), PROVIDERS)}")
    return PROVIDERS[name]
