"""Processes that measure: their environment, and the pipe to a worker."""

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.models import Job

REPOSITORY = Path(__file__).parents[1]


class Failed(Exception):
    """A command was not done: one line that says why."""


class NotMeasured(Failed):
    """It cannot be done here."""


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment(threads: int | None = None) -> dict[str, str]:
    """All cores for whoever runs; who waits does not spin."""
    count = str(threads or cores())
    return os.environ | {
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OMP_WAIT_POLICY": "passive",
        "KMP_BLOCKTIME": "0",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])),
    }


class Remote:
    """A worker (see worker.py). Its compilers start without a cache; what it prints goes to `log`."""

    def __init__(self, contender: str, job: Job, log: Path) -> None:
        self.contender, self._log = contender, log
        self._cache = tempfile.TemporaryDirectory(prefix="benchmarks-")
        self._messages = log.open("a")
        self._messages.write(f"\n# {contender}: {job.model} {job.stage} {job.height}x{job.width} x{job.batch}\n")
        self._messages.flush()
        env = environment() | {"TORCHINDUCTOR_CACHE_DIR": self._cache.name, "TQDM_DISABLE": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._messages, text=True, env=env,
        )  # fmt: skip
        answer = self._ask({"do": "load", "contender": contender, "job": job.record()}, 1800)
        self.load_seconds: float = answer["seconds"]
        self.facts: dict[str, str] = answer["facts"]

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def run(self, times: int = 1, save: Path | None = None) -> list[float]:
        """Seconds of each."""
        return self._ask({"do": "run", "times": times, "save": save and str(save)}, 3600)["seconds"]

    def peak(self) -> dict[str, int | None]:
        return self._ask({"do": "peak"}, 60)

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):  # it may have died with a command unread
                if pipe:
                    pipe.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._messages.close()
        self._cache.cleanup()

    def _ask(self, command: dict[str, Any], limit: float) -> dict[str, Any]:
        """Failed or NotMeasured closes the worker."""
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
            line = self._answer(limit)
        except BrokenPipeError:
            line = ""
        if not line:
            self.close()
            code = self._process.returncode
            killed = "; killed, perhaps for want of memory" if code == -9 else ""
            raise Failed(f"the process ended with {code}{killed}; its messages are in {self._log.name}")
        answer = json.loads(line)
        for key, kind in (("not_here", NotMeasured), ("error", Failed)):
            if key in answer:
                self.close()
                raise kind(answer[key])
        return answer

    def _answer(self, limit: float) -> str:
        """One line, or a Failed after `limit` seconds."""
        assert self._process.stdout
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(limit):
                self._process.kill()
                self.close()
                raise Failed(f"no answer within {limit:.0f} s")
        return self._process.stdout.readline()


def command(*arguments: str, threads: int | None = None, log: Path | None = None) -> tuple[str, float, int]:
    """Run python with these arguments: (what it printed, seconds, bytes of its largest process). Raises Failed."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        process = subprocess.Popen([sys.executable, *arguments], stdout=out, stderr=errors, env=environment(threads))
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        errors.seek(0)
        printed, messages = out.read(), errors.read()
    if log is not None:
        with log.open("a") as file:
            file.write(f"\n$ python {' '.join(arguments)}\n{printed}{messages}\n")
    if process.returncode:
        lines = (messages.strip() or printed.strip()).splitlines() or [f"ended with {process.returncode}"]
        raise Failed(lines[-1][:300])
    return printed, seconds, usage.ru_maxrss * 1024


def write_checkpoint(job: Job, log: Path) -> None:
    """Where it is not there yet: gigabytes of random weights."""
    if not job.checkpoint.exists():
        command("-m", "benchmarks.checkpoints", job.model, str(job.checkpoint), log=log)
