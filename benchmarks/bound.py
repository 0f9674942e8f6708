"""What no run can be faster than: arithmetic at the rate of a large matrix product, and every weight read once."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.models import PARTS, Job

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}


@dataclass(frozen=True)
class Work:
    """Of one run: each stage that it runs, how often, with its FLOPs and its parameters."""

    stages: tuple[tuple[int, int, int], ...]  # (times, flops, parameters)

    @property
    def flops(self) -> int:
        return sum(times * flops for times, flops, _ in self.stages)

    def bytes(self, precision: str) -> int:
        return BYTES[precision] * sum(times * count for times, _, count in self.stages)

    def seconds(self, rate: float, bandwidth: float, precision: str) -> float:
        size = BYTES[precision]
        return sum(times * max(flops / rate, size * count / bandwidth) for times, flops, count in self.stages)


def work(job: Job) -> Work:
    if job.stage == "picture":
        from diffrt.configs import read_json
        from diffrt.schedulers import from_config

        table = from_config(read_json(job.checkpoint / "scheduler" / "scheduler_config.json"), None).table(job.steps)
        evaluations = int(table.calls.sum())
        parts = (("text", 1), ("denoiser", evaluations), ("vae", 1))
        each = [(times, *work(replace(job, stage=stage)).stages[0]) for stage, times in parts]
        return Work(tuple((times, flops, count) for times, _, flops, count in each))
    return Work(((1, flops(job), job.parameters()),))


def flops(job: Job) -> int:
    """Of one run of a stage, counted on shapes alone: no weights are read."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    (part,) = PARTS[job.stage]
    config = job.config(part)
    with torch.device("meta"):
        if job.stage == "text":
            module: Any = CLIPTextModel(CLIPTextConfig(**config))
        else:
            module = (UNet2DConditionModel if job.stage == "denoiser" else AutoencoderKL).from_config(config)
    tensors = {name: torch.from_numpy(array).to("meta") for name, array in job.inputs().items()}
    if job.stage == "vae":
        return counted(module.decode, tensors["latents"])
    added = {name: tensors.pop(name) for name in ("text_embeds", "time_ids") if name in tensors}
    return counted(module, **tensors, **({"added_cond_kwargs": added} if added else {}))


def counted(function: Any, *args: Any, **kwargs: Any) -> int:
    """Multiplications and additions of matrix products, convolutions and attention."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        function(*args, **kwargs)
    return counter.get_total_flops()


def fields(found: Work | None, rates: Mapping[str, float], precision: str, median: float) -> dict[str, Any]:
    """A row's figures of what bounds it."""
    if found is None:
        return {}
    bandwidth, rate = rates.get("bandwidth"), rates.get(precision)
    row = {"flops": found.flops, "weight_bytes": found.bytes(precision), "rate": rate, "bandwidth": bandwidth}
    if rate and bandwidth:
        seconds = found.seconds(rate, bandwidth, precision)
        row |= {"bound_seconds": seconds, "bound_fraction": seconds / median}
    return row


if __name__ == "__main__":
    print(json.dumps(work(Job(**json.loads(sys.argv[1]))).stages))
