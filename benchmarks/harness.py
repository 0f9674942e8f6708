"""The run: the baseline stays loaded, each contender is loaded in turn, and the two run alternately.

A ratio is thus of medians that saw the same minutes of the same machine. Memory holds two contenders at most; where it
does not hold both, the baseline is run and closed before, and the row says that they were not interleaved.
"""

import datetime
import json
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks import bound, machine
from benchmarks.contenders import CONTENDERS
from benchmarks.contenders.base import Contender
from benchmarks.plan import LEAST_SECONDS, MOST_ROUNDS, Planned, job
from benchmarks.processes import Failed, NotMeasured, Remote, command, write_checkpoint
from benchmarks.rows import Row

HEADROOM = 1.4, 2e9  # of a contender's memory: times its weights, and bytes besides


class Runner(Protocol):
    def run(self, times: int = 1) -> list[float]: ...


@dataclass(frozen=True)
class Setting:
    """What all rows of a run have in common."""

    suite: str
    work: Path
    command: str
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    rates: Mapping[str, float] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        return self.work / "benchmarks.log"

    def row(self, case: str, stage: str, contender: str, **fields: Any) -> Row:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        common: dict[str, Any] = {
            "versions": self.versions,
            "machine": self.machine,
            "command": self.command,
            "date": now,
        }
        return Row(self.suite, case, stage, contender, **common, **fields)


def setting(suite: str, work: Path, line: str, rated: bool) -> Setting:
    """Measures the machine, in a process of its own, where a suite has bounds."""
    work.mkdir(parents=True, exist_ok=True)
    found = Setting(suite, work.absolute(), line, machine.describe(), machine.versions())
    if not rated:
        return found
    device = ("cuda",) if suite == "gpu" else ()
    try:
        printed, _, _ = command("-m", "benchmarks.machine", *device, log=found.log)
        return replace(found, rates=json.loads(printed.strip().splitlines()[-1]))
    except Failed:
        return found


def alternate(baseline: Runner, contender: Runner, rounds: int) -> tuple[list[float], list[float]]:
    """A B A B ...: seconds of each."""
    a: list[float] = []
    b: list[float] = []
    for _ in range(rounds):
        a += baseline.run()
        b += contender.run()
    return a, b


def rounds_of(least: int, one: float, other: float) -> int:
    return max(least, min(MOST_ROUNDS, int(LEAST_SECONDS / (one + other))))


def spread(seconds: list[float]) -> dict[str, Any]:
    return {
        "rounds": len(seconds),
        "median_seconds": statistics.median(seconds),
        "min_seconds": min(seconds),
        "max_seconds": max(seconds),
    }


def compare(reference: NDArray[Any], got: NDArray[Any]) -> dict[str, float]:
    """How far an output is from the baseline's; the PSNR of pictures of 8 bits."""
    if reference.shape != got.shape:
        raise Failed(f"gives an output of shape {list(got.shape)}; the baseline's is {list(reference.shape)}")
    a, b = (x.astype(np.float64) for x in (reference, got))
    if not np.isfinite(b).all():
        raise Failed("gives NaN or infinity")
    found = {"error": float(np.linalg.norm(a - b) / max(float(np.linalg.norm(a)), 1e-30))}
    if reference.dtype == np.uint8 and found["error"]:
        found["psnr"] = float(10 * np.log10(255**2 / np.mean((a - b) ** 2)))
    return found


class Stand:
    """One entry: its baseline, loaded once, against whom all are run."""

    def __init__(self, setting: Setting, plan: Planned) -> None:
        self.setting, self.entry, self.contenders = setting, plan.entry, plan.contenders
        self.job = job(plan.entry, str(setting.work))
        self.record = CONTENDERS[plan.entry.baseline]
        self.file = setting.work / "baseline.npy"
        self.samples: list[float] = []
        self.baseline: Remote | None = None
        self.loaded = self.first = 0.0
        self.peak: Mapping[str, int | None] = {"bytes": None, "vram": None}
        self.work: bound.Work | None = None

    def rows(self, wanted: Callable[[str], bool]) -> Iterator[Row]:
        """A row for every contender that is wanted, then the baseline's."""
        todo = [each for each in self.contenders if wanted(each.name)]
        if not todo:
            return
        try:
            write_checkpoint(self.job, self.setting.log)
            self.work = self.counted()
            self.open()
        except (Failed, OSError) as error:  # nobody to compare with
            for each in (self.record, *todo):
                yield self.absent(each, absence(each, error))
            return
        for each in todo:
            yield self.against(each)
            yield self.own_row()
        if self.baseline:
            self.baseline.close()

    def counted(self) -> bound.Work | None:
        try:
            printed, _, _ = command("-m", "benchmarks.bound", json.dumps(self.job.record()), log=self.setting.log)
            return bound.Work(tuple(tuple(each) for each in json.loads(printed.strip().splitlines()[-1])))
        except Failed:
            return None

    def open(self) -> None:
        if missing := self.record.missing():
            raise Failed(f"pip install {' '.join(missing)}")
        self.baseline = Remote(self.record.name, self.job, self.setting.log)
        (first,) = self.baseline.run(1, self.file)
        if not self.samples:
            self.loaded, self.first = self.baseline.load_seconds, first

    def against(self, contender: Contender) -> Row:
        if missing := contender.missing():
            return self.absent(contender, ("missing", f"pip install {' '.join(missing)}"))
        remote = None
        try:
            if contender.prepare:
                contender.prepare(contender, self.job, self.setting.log)
            together = self.room(contender)
            baseline = self.samples
            if not together:
                baseline = self.alone()
            elif self.baseline is None:
                self.open()
            remote = Remote(contender.name, self.job, self.setting.log)
            output = self.setting.work / "output.npy"
            (first,) = remote.run(1, output)
            error = compare(np.load(self.file), np.load(output))
            rounds = rounds_of(self.entry.rounds, self.first, first)
            if together:
                assert self.baseline
                baseline, own = alternate(self.baseline, remote, rounds)
                self.samples += baseline
            else:
                own = remote.run(rounds)
            peak = remote.peak()
            return self.measured(contender, remote, own, baseline, first, peak, together, error)
        except (Failed, OSError) as error:
            if self.baseline and not self.baseline.alive:
                self.baseline = None  # the next contender opens it again
            return self.absent(contender, absence(contender, error))
        finally:
            if remote:
                remote.close()

    def room(self, contender: Contender) -> bool:
        """Whether memory holds it beside the baseline; if the baseline is closed, both."""
        if contender.provider == "cuda":
            return True
        factor, besides = HEADROOM
        count, needed = self.job.parameters(), 0.0
        for precision in [contender.precision] if self.baseline else [contender.precision, self.record.precision]:
            needed += factor * bound.BYTES[precision] * count + besides
        return needed < machine.available_memory()

    def alone(self) -> list[float]:
        """Rounds of the baseline with nobody beside it; it is closed afterwards."""
        if self.baseline is None:
            self.open()
        assert self.baseline
        seconds = self.baseline.run(rounds_of(self.entry.rounds, self.first, self.first))
        self.peak = self.baseline.peak()
        self.samples += seconds
        self.baseline.close()
        self.baseline = None
        return seconds

    def measured(
        self,
        contender: Contender,
        remote: Remote,
        own: list[float],
        baseline: list[float],
        first: float,
        peak: Mapping[str, int | None],
        together: bool,
        error: Mapping[str, float],
    ) -> Row:
        facts = {"precision": contender.precision, "provider": contender.provider} | remote.facts
        middle, median = statistics.median(baseline), statistics.median(own)
        return self.setting.row(
            self.entry.case.name, self.entry.stage, contender.name,
            runtime=contender.runtime, status="measured", shapes=self.shapes(), **facts, **spread(own),
            baseline_seconds=middle, ratio=middle / median, interleaved=together,
            load_seconds=remote.load_seconds, first_seconds=first, peak_bytes=peak["bytes"],
            vram_bytes=peak["vram"] if contender.provider == "cuda" else None, **error,
            **bound.fields(self.work, self.setting.rates, facts["precision"], median),
        )  # fmt: skip

    def own_row(self) -> Row:
        """The baseline's, of all its runs so far."""
        if self.baseline:
            self.peak = self.baseline.peak()
        record, median = self.record, statistics.median(self.samples) if self.samples else self.first
        return self.setting.row(
            self.entry.case.name, self.entry.stage, record.name,
            runtime=record.runtime, precision=record.precision, provider=record.provider, status="measured",
            shapes=self.shapes(), **spread(self.samples or [self.first]), baseline_seconds=median, ratio=1.0,
            load_seconds=self.loaded, first_seconds=self.first, peak_bytes=self.peak["bytes"],
            vram_bytes=self.peak["vram"] if record.provider == "cuda" else None, error=0.0,
            **bound.fields(self.work, self.setting.rates, record.precision, median),
        )  # fmt: skip

    def absent(self, contender: Contender, why: tuple[str, str]) -> Row:
        status, reason = why
        return self.setting.row(
            self.entry.case.name, self.entry.stage, contender.name, runtime=contender.runtime,
            precision=contender.precision, provider=contender.provider, status=status, reason=reason,
        )  # fmt: skip

    def shapes(self) -> dict[str, list[int]]:
        return {name: list(array.shape) for name, array in self.job.inputs().items()}


def absence(contender: Contender, error: Exception) -> tuple[str, str]:
    """Status and reason of one that was not measured."""
    if missing := contender.missing():
        return "missing", f"pip install {' '.join(missing)}"
    return "not measured" if isinstance(error, NotMeasured) else "failed", str(error) or type(error).__name__
