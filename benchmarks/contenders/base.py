"""What a contender is."""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.models import Call, Job

PIP = {  # module -> what to install
    "torch": "torch", "diffusers": "diffusers==0.42.1", "transformers": "transformers", "onnx": "onnx",
    "onnxscript": "onnxscript", "onnxruntime": "onnxruntime", "openvino": "openvino", "jax": "jax", "flax": "flax",
}  # fmt: skip
DIFFUSERS = ("torch", "diffusers", "transformers")
STAGES = ("text", "denoiser", "vae", "picture")


class NotHere(Exception):
    """Why a contender cannot run here, in one line: no such device, no such precision."""


@dataclass(frozen=True)
class Contender:
    name: str
    runtime: str
    precision: str  # fp32, bf16, fp16 or int8: the arithmetic, which the bound is taken of
    provider: str  # where it runs
    needs: tuple[str, ...]  # modules
    load: Callable[["Contender", Job], Call]  # in the worker. Raises NotHere
    prepare: Callable[["Contender", Job, Path], None] | None = None  # writes files that last; the path is the log's
    options: Mapping[str, Any] = field(default_factory=dict)
    stages: tuple[str, ...] = STAGES
    bundle: str | None = None  # precision of the diffrt bundle that it reads; "": that of the model's weights
    speed: float = 1.0  # times the baseline's, roughly, and
    start: float = 8.0  # seconds to load and compile, roughly: both for the plan only

    def missing(self) -> list[str]:
        """What to install."""
        return [PIP[module] for module in self.needs if importlib.util.find_spec(module) is None]
