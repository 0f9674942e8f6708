"""A contender in a process of its own: it takes commands, a JSON object a line, and answers each with one.

    {"do": "load", "contender": NAME, "job": {...}}  -> {"seconds": S}
    {"do": "run", "times": K, "save": FILE or null}  -> {"seconds": [S, ...]}; FILE gets the last output
    {"do": "peak"}                                   -> {"bytes": largest resident memory so far, "vram": bytes or null}

An answer with "not_here" or "error" says in a line why a command was not done. The process ends with its input.
"""

import json
import os
import subprocess
import sys
import time
import traceback
from typing import IO, Any

import numpy as np

from benchmarks.models import Call, Job


class Worker:
    def __init__(self) -> None:
        self.call: Call | None = None
        self.vram_before = vram() or 0

    def load(self, contender: str, job: dict[str, Any]) -> dict[str, Any]:
        start = time.perf_counter()
        from benchmarks.contenders import CONTENDERS

        record, made = CONTENDERS[contender], Job(**job)
        self.call, self.inputs = record.load(record, made), made.inputs()
        return {"seconds": time.perf_counter() - start, "facts": getattr(self.call, "facts", {})}

    def run(self, times: int, save: str | None = None) -> dict[str, Any]:
        assert self.call is not None
        seconds = []
        for _ in range(times):
            start = time.perf_counter()
            out = self.call(self.inputs)
            seconds.append(time.perf_counter() - start)
        if save:
            np.save(save, out["out"])
        return {"seconds": seconds}

    def peak(self) -> dict[str, Any]:
        used = vram()
        return {"bytes": peak_bytes(), "vram": None if used is None else used - self.vram_before}


def peak_bytes() -> int | None:
    """The high-water mark of this process's resident memory."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    except OSError:
        return None


def vram() -> int | None:
    """Bytes in use on the GPU, by whatever process."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    try:
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) << 20
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None


def serve(commands: IO[str], answers: IO[str]) -> None:
    from benchmarks.contenders.base import NotHere

    worker = Worker()
    for line in commands:
        command = json.loads(line)
        try:
            answer = getattr(worker, command.pop("do"))(**command)
        except NotHere as error:
            answer = {"not_here": str(error)}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to the log, not between the answers
    sys.stdout = sys.stderr
    serve(sys.stdin, answers)
