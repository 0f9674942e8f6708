"""One line of RUNS.jsonl: what one contender did in one stage of one case.

Rows are appended as they are measured; of rows with one key the newest counts.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

SCHEMA = 1
STATUSES = ("measured", "missing", "failed", "not measured")  # missing: a package is not installed


@dataclass(frozen=True)
class Row:
    """Seconds are by the clock, sizes in bytes. None: not known, or of no meaning here."""

    suite: str
    case: str
    stage: str
    contender: str
    runtime: str
    precision: str  # what the weights are stored in or the arithmetic is done in, whichever is less
    provider: str
    status: str  # one of STATUSES
    reason: str = ""  # one line, of a row that was not measured
    shapes: Mapping[str, list[int]] = field(default_factory=dict)  # of the inputs
    rounds: int = 0
    median_seconds: float | None = None  # of the rounds, after one warm-up
    min_seconds: float | None = None
    max_seconds: float | None = None
    baseline_seconds: float | None = None  # median of the baseline in the same rounds
    ratio: float | None = None  # baseline_seconds / median_seconds: above 1 is faster than the baseline
    interleaved: bool = True  # False: memory did not hold both, so that the baseline ran before and not in turns
    load_seconds: float | None = None  # from a fresh process to ready: imports, weights, the provider's compilation
    first_seconds: float | None = None  # the first run, which compiles where the runtime compiles late
    peak_bytes: int | None = None  # largest resident memory of the contender's own process, mapped files included
    vram_bytes: int | None = None  # memory of the GPU that it took
    disk_bytes: int | None = None  # what it added to the disk
    flops: int | None = None  # of one run: multiplications and additions of products and convolutions
    weight_bytes: int | None = None  # that one run reads, in this precision
    rate: float | None = None  # FLOP/s of a large matrix product on this machine in this precision
    bandwidth: float | None = None  # bytes/s read from memory
    bound_seconds: float | None = None  # no run can be faster: the larger of flops / rate and weight_bytes / bandwidth
    bound_fraction: float | None = None  # bound_seconds / median_seconds
    error: float | None = None  # relative L2 distance from the output of eager fp32
    psnr: float | None = None  # dB, of pictures; None also where they are equal
    parts: Mapping[str, float] = field(default_factory=dict)  # what a figure is made of: package -> bytes, ...
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    date: str = ""  # UTC, ISO 8601
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ValueError(f"a row of schema {self.schema}; this program reads {SCHEMA}: measure again")
        if self.status not in STATUSES:
            raise ValueError(f"status is {self.status!r}; allowed: {', '.join(STATUSES)}")
        if (self.status == "measured") == bool(self.reason):
            raise ValueError("a row has a reason if, and only if, it was not measured")

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.suite, self.case, self.stage, self.contender

    def dumps(self) -> str:
        return json.dumps(asdict(self), allow_nan=False)

    @staticmethod
    def loads(line: str) -> "Row":
        """ValueError for what is no row of this schema."""
        record = json.loads(line)
        known = {f.name for f in fields(Row)}
        if not isinstance(record, dict) or set(record) - known:
            extra = sorted(set(record) - known) if isinstance(record, dict) else line[:60]
            raise ValueError(f"no row of schema {SCHEMA}: {extra}")
        try:
            return Row(**record)
        except TypeError as error:
            raise ValueError(f"no row of schema {SCHEMA}: {error}") from None


def append(file: Path, row: Row) -> None:
    """At once, so that an interrupted run keeps what it measured."""
    with file.open("a", encoding="utf-8") as out:
        out.write(row.dumps() + "\n")


def read(file: Path) -> list[Row]:
    """All rows of a file, oldest first. ValueError names the line that is none. A last line without an end was cut off
    by an interruption and does not count."""
    rows = []
    for number, line in enumerate(file.read_text("utf-8").splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            break
        try:
            rows.append(Row.loads(line))
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: {error}") from None
    return rows


def newest(rows: Iterable[Row]) -> list[Row]:
    """The last row of every key, in the order in which keys first came."""
    return list({row.key: row for row in rows}.values())
