"""The machine: what it is, and what it can do at best. `python -m benchmarks.machine` prints the rates as JSON."""

import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.processes import cores

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm")
PACKAGES = (
    "diffrt", "numpy", "onnxruntime", "onnxruntime-gpu", "onnxruntime-ep-openvino", "onnx", "onnxscript", "torch",
    "diffusers", "transformers", "accelerate", "openvino", "jax", "flax",
)  # fmt: skip
SIDE = 4096  # of the matrices
COPIES = 5


def describe() -> dict[str, Any]:
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
    flags = facts.get("flags", facts.get("Features", "")).split()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": facts.get("model name", platform.processor() or platform.machine()),
        "family": "-".join(facts.get(key, "?") for key in ("cpu family", "model", "stepping")),
        "flags": [flag for flag in FLAGS if flag in flags],
        "cores": cores(),
        "memory": memory,
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "gpu": gpu(),
    }


def gpu() -> str:
    """Name, memory and driver of the first; "" where there is none."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader", "--id=0"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def available_memory() -> int:
    """Bytes that can be had without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 1 << 62


def rates(device: str = "cpu") -> dict[str, float]:
    """FLOP/s of a square product in each precision, the best of what the installed libraries reach, and bytes/s of
    reading memory. What is not installed is left out."""
    found: dict[str, float] = {}
    for measure in (torch_rates, int8_rate) if device == "cpu" else (torch_rates,):
        try:
            found |= measure(device)
        except (ImportError, RuntimeError) as error:
            print(error)
    return found


def best(call: Callable[[], Any]) -> float:
    """Seconds of the fastest of some."""
    call()
    times = []
    for _ in range(COPIES):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def torch_rates(device: str) -> dict[str, float]:
    import torch

    def finished(call: Callable[[], Any]) -> Callable[[], Any]:
        def on_gpu() -> None:
            call()
            torch.cuda.synchronize()

        return on_gpu if device == "cuda" else call

    found = {}
    for name, dtype in {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}.items():
        if name == "fp16" and device == "cpu":
            continue  # no runtime here computes in it
        a, b = (torch.randn(SIDE, SIDE, device=device).to(dtype) for _ in range(2))
        found[name] = 2 * SIDE**3 / best(finished(partial(torch.matmul, a, b)))
    x = torch.ones(1 << 28, device=device)  # 1 GB
    found["bandwidth"] = x.numel() * 4 / best(finished(x.sum))
    return found


def int8_rate(device: str) -> dict[str, float]:
    """u8 times s8, as ONNX Runtime's kernels for quantized layers take them."""
    import numpy as np
    import onnxruntime as ort
    from onnx import TensorProto, helper

    a = helper.make_tensor_value_info("a", TensorProto.UINT8, [SIDE, SIDE])
    y = helper.make_tensor_value_info("y", TensorProto.INT32, [SIDE, SIDE])
    rng = np.random.default_rng(0)
    weights = rng.integers(-64, 64, (SIDE, SIDE), np.int8)
    b = helper.make_tensor("b", TensorProto.INT8, weights.shape, weights.tobytes(), raw=True)
    node = helper.make_node("MatMulInteger", ["a", "b"], ["y"])
    model = helper.make_model(
        helper.make_graph([node], "product", [a], [y], [b]), opset_imports=[helper.make_opsetid("", 21)]
    )
    model.ir_version = 10
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {"a": rng.integers(0, 255, (SIDE, SIDE), np.uint8)}
    return {"int8": 2 * SIDE**3 / best(lambda: session.run(None, feeds))}


if __name__ == "__main__":
    import sys

    print(json.dumps(rates(*sys.argv[1:])))
