"""The single graph of Stable Diffusion 1.5's shapes, beside the host's loop: time of a step, and memory.

    pytest -m slow tests/full_size/test_single.py -s

Prints the figures of docs/embedding.md. Needs 12 GB of memory and 15 GB of disk. DIFFRT_FULL_SIZE names a folder that
keeps the checkpoint from one run to the next.
"""

import os
import sys
from pathlib import Path

import pytest

from benchmarks.checkpoints import write_random

from .measure import measured

pytestmark = pytest.mark.slow

# Both print the seconds of a step that the process computed for, which others on the machine change little, and by the
# clock. ONNX Runtime is set as diffrt sets it.
BY_HOST = """
import sys, time
import diffrt
pipe, times = diffrt.load(sys.argv[1]), []
for step in pipe.stream("a red apple", seed=7, rng="philox", num_inference_steps=3, guidance_scale=7.5):
    times.append((time.process_time(), time.perf_counter()))
(a, b), (c, d) = times[0], times[-1]
print((c - a) / 2, (d - b) / 2)
"""
BY_GRAPH = """
import sys, time
import numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.log_severity_level, options.enable_mem_pattern = 3, False
session = ort.InferenceSession(sys.argv[1], options)
ids = np.zeros((1, 77), np.int64)
feeds = {"input_ids": ids, "negative_ids": ids, "seed": np.array([7]), "num_inference_steps": np.array(3)}
feeds["guidance_scale"], slots, times = np.array(7.5, np.float32), np.zeros((1, 1, 4, 64, 64), np.float32), []
for start, count in ((0, 1), (0, 2)):
    began = time.process_time(), time.perf_counter()
    session.run(["slots"], feeds | {"start": np.array(start), "count": np.array(count)})
    times.append((time.process_time() - began[0], time.perf_counter() - began[1]))
session.run(["images"], feeds | {"count": np.array(3)})
print(times[1][0] - times[0][0], times[1][1] - times[0][1])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    kept = os.environ.get("DIFFRT_FULL_SIZE")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("full")
    if not (folder / "sd15").exists():
        write_random("sd15", folder / "sd15")
    return folder


def test_beside_the_host(folder):
    """A step takes at most 10 % longer, and all of it at most 15 % more memory."""
    bundle, graph = folder / "portable-and-ort", folder / "single"
    command = [sys.executable, "-m", "diffrt", "export", "--force"]
    measured(*command, str(folder / "sd15"), str(bundle), "--no-verify")
    seconds, peak, _ = measured(*command, str(bundle), str(graph), "--form", "single", "--steps", "3")
    print(f"\nexport of the bundle as a single graph: {seconds:.0f} s, peak {peak:.2f} GB")
    assert (graph / "pipeline.onnx.data").stat().st_size > 4e9 > 100e6 > (graph / "pipeline.onnx").stat().st_size
    figures = {}
    for name, code, source in (("host", BY_HOST, bundle), ("graph", BY_GRAPH, graph / "pipeline.onnx")):
        _, peak, printed = measured(sys.executable, "-c", code, str(source))
        computed, clock = map(float, printed.split()[-2:])
        figures[name] = computed, peak
        print(f"{name}: a guided step {clock:.1f} s, {computed:.1f} s of processors; peak {peak:.2f} GB")
    assert figures["graph"][0] <= 1.10 * figures["host"][0]
    assert figures["graph"][1] <= 1.15 * figures["host"][1]
