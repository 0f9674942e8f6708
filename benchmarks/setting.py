"""What all rows of a run have in common: the machine, the versions, the command."""

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.processes import Failed, command
from benchmarks.rows import Row


@dataclass(frozen=True)
class Setting:
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
        """The reason, where there is one, tells no one where the work folder lies."""
        if "reason" in fields:
            fields["reason"] = fields["reason"].replace(f"{self.work}/", "")
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
