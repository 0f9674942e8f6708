"""OpenVINO by its own Python package, reading the plain export."""

import os

from benchmarks.contenders.base import Contender
from benchmarks.contenders.plain_onnx import GRAPHS, NEEDS, exported, renamed
from benchmarks.models import Call, Job

HINTS = {"fp32": "f32", "bf16": "bf16"}


def load(contender: Contender, job: Job) -> Call:
    import openvino

    file = exported(job)
    core = openvino.Core()
    threads = len(os.sched_getaffinity(0))
    options = {"INFERENCE_PRECISION_HINT": HINTS[contender.precision], "INFERENCE_NUM_THREADS": threads}
    model = core.compile_model(core.read_model(str(file)), "CPU", options)
    names = [each.get_any_name() for each in model.inputs]
    return lambda a: {"out": model(renamed(job, a, names))[0].copy()}


OPENVINO = (*NEEDS, "openvino")
CONTENDERS = (
    Contender("openvino-fp32", "OpenVINO", "fp32", "cpu", OPENVINO, load, stages=GRAPHS, speed=1.1, start=15),
    Contender("openvino-bf16", "OpenVINO", "bf16", "cpu", OPENVINO, load, stages=GRAPHS, speed=3.5, start=15),
)
