"""One entry of a suite: the baseline stays loaded, each contender is loaded in turn, and the two run alternately.

A ratio is thus of medians that saw the same minutes of the same machine. Memory holds two contenders at most; where it
does not hold both, the baseline is run and closed before, and the row says that they were not interleaved.
"""

import json
import statistics
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from benchmarks import bound, machine
from benchmarks.contenders import CONTENDERS
from benchmarks.contenders.base import Contender
from benchmarks.measures import compare, spread, take_turns
from benchmarks.plan import Planned, job
from benchmarks.processes import Failed, NotMeasured, Remote, command, write_checkpoint
from benchmarks.rows import Row
from benchmarks.setting import Setting

HEADROOM = 2.0, 3e9  # of a contender's memory: times its weights in fp32, which most read first, and bytes besides


class Stand:
    """One entry: its baseline, loaded once, against whom all are run."""

    def __init__(self, setting: Setting, plan: Planned) -> None:
        self.setting, self.entry, self.contenders = setting, plan.entry, plan.contenders
        self.job = job(plan.entry, str(setting.work))
        self.record = CONTENDERS[plan.entry.baseline]
        self.file = setting.work / "reference.npy"
        self.error: Mapping[str, float] = {"error": 0.0}
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
        try:
            for each in todo:
                yield self.against(each)
                yield self.own_row()
        finally:
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
        reopened, output = bool(self.samples), self.file
        if self.entry.reference:
            output = self.setting.work / "output.npy"
            if not reopened:
                remote = Remote(self.entry.reference, self.job, self.setting.log)
                remote.run(1, self.file)
                remote.close()
        self.baseline = Remote(self.record.name, self.job, self.setting.log)
        (first,) = self.baseline.run(1, output)
        if not reopened:
            self.loaded, self.first = self.baseline.load_seconds, first
            self.error = compare(np.load(self.file), np.load(output))

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
            if together:
                assert self.baseline
                baseline, own = take_turns(self.baseline, remote, self.entry.rounds)
                self.samples += baseline
            else:
                own = remote.run(self.entry.rounds)
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
        each = factor * 4 * self.job.parameters() + besides
        return (1 if self.baseline else 2) * each < machine.available_memory()

    def alone(self) -> list[float]:
        """Rounds of the baseline with nobody beside it, which then is closed; the same ones for all that follow."""
        if self.baseline:
            if not self.samples:
                self.samples += self.baseline.run(self.entry.rounds)
            self.peak = self.baseline.peak()
            self.baseline.close()
            self.baseline = None
        return self.samples

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
            vram_bytes=self.peak["vram"] if record.provider == "cuda" else None, **self.error,
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
