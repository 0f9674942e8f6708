"""From a suite to what will be run: each contender of each entry, and how long it should take."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch

from benchmarks.contenders import CONTENDERS
from benchmarks.contenders.base import Contender
from benchmarks.measures import LEAST_SECONDS, MOST_ROUNDS
from benchmarks.models import MODELS, Job
from benchmarks.suites import Entry


@dataclass(frozen=True)
class Planned:
    """An entry with those of its contenders that were asked for."""

    entry: Entry
    contenders: tuple[Contender, ...]

    def seconds(self) -> float:
        """Roughly, on the machine that suites.py speaks of."""
        one, rounds = self.entry.seconds, self.entry.rounds
        total = 10 + one
        for contender in self.contenders:
            own = one / contender.speed
            total += contender.start + own + max(rounds * (one + own), min(LEAST_SECONDS, MOST_ROUNDS * (one + own)))
        return total


def label(suite: str, entry: Entry, contender: str) -> str:
    return f"{suite}/{entry.case.name}/{entry.stage}/{contender}"


def matches(text: str, only: Sequence[str]) -> bool:
    """Every one of `only` is in it; a comma stands between alternatives."""
    return all(any(part in text for part in each.split(",")) for each in only)


def taking_part(entry: Entry) -> Iterator[Contender]:
    for pattern in entry.contenders:
        for name, contender in CONTENDERS.items():
            fits = contender.bundle is None or contender.bundle in ("", *MODELS[entry.case.model].precisions[1:])
            if fnmatch(name, pattern) and entry.stage in contender.stages and fits:
                yield contender


def planned(suite: str, entries: Sequence[Entry], only: Sequence[str] = (), everything: bool = False) -> list[Planned]:
    """Entries of which nothing is left are left out."""
    plan = []
    for entry in entries:
        if entry.default or everything:
            chosen = {c.name: c for c in taking_part(entry) if matches(label(suite, entry, c.name), only)}
            if chosen:
                plan.append(Planned(entry, tuple(chosen.values())))
    return plan


def job(entry: Entry, work: str) -> Job:
    case = entry.case
    return Job(case.model, entry.stage, case.height, case.width, case.batch, case.steps, case.guidance, work)


def with_rounds(plan: Sequence[Planned], rounds: int | None) -> list[Planned]:
    return [replace(p, entry=replace(p.entry, rounds=rounds)) if rounds else p for p in plan]
