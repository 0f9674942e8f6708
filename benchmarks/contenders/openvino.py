"""OpenVINO by its own Python package, reading the plain export."""

import os

from benchmarks.contenders.base import Contender, NotHere
from benchmarks.contenders.plain_onnx import GRAPHS, NEEDS, graph, renamed, write_graph
from benchmarks.models import Call, Job

HINTS = {"fp32": "f32", "bf16": "bf16"}


def load(contender: Contender, job: Job) -> Call:
    import openvino

    file = graph(contender, job)
    core = openvino.Core()
    threads = len(os.sched_getaffinity(0))
    options = {"INFERENCE_PRECISION_HINT": HINTS[contender.precision], "INFERENCE_NUM_THREADS": threads}
    model = core.compile_model(core.read_model(str(file)), "CPU", options)
    used = model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if used != options["INFERENCE_PRECISION_HINT"]:
        raise NotHere(f"OpenVINO computes in {used} on this CPU")
    types = {each.get_any_name(): each.get_element_type().get_type_name() for each in model.inputs}
    return lambda a: {"out": model(renamed(job, a, types))[0].copy()}


def contender(precision: str, speed: float) -> Contender:
    name, needs = f"openvino-{precision}", (*NEEDS, "openvino")
    return Contender(name, "OpenVINO", precision, "cpu", needs, load, write_graph, stages=GRAPHS, speed=speed, start=15)


CONTENDERS = contender("fp32", 1.1), contender("bf16", 3.5)
