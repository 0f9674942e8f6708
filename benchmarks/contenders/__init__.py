"""Who takes part: one record each. A contender is loaded and run in a process of its own (see worker.py); nothing here
imports its libraries before `load` is called.
"""

from benchmarks.contenders import diffrt, eager, flax, openvino, plain_onnx
from benchmarks.contenders.base import Contender

CONTENDERS: dict[str, Contender] = {
    each.name: each for module in (eager, plain_onnx, openvino, diffrt, flax) for each in module.CONTENDERS
}
