"""Rows to sections: one for each stage of a case, with a table whose cells are text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.rows import Row

GB = 1e9
TITLES = {
    "text": "Text encoder", "denoiser": "One guided evaluation of the denoiser", "vae": "Decoder",
    "picture": "Whole picture", "import": "Import", "first picture": "First picture, from process start to file",
    "install": "Size on disk of what must be installed", "export": "Export",
}  # fmt: skip
SUITES = {
    "smoke": "The default model", "cpu": "Full size on the CPU", "gpu": "On the GPU", "start": "Starting",
    "export": "Exporting", "schedulers": "One step of a scheduler, without a model",
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    title: str
    cell: Callable[[Row], str]
    about: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Section:
    """What is shown together: rows of one stage of one case, the fastest first; or of all schedulers."""

    suite: str
    case: str
    stage: str
    measured: tuple[Row, ...]
    absent: tuple[Row, ...]
    columns: tuple[Column, ...]

    @property
    def name(self) -> str:
        return "-".join((self.suite, self.case, self.stage)).replace(" ", "-")

    @property
    def title(self) -> str:
        title = TITLES.get(self.stage, self.stage)
        return title if COLUMNS.get(self.suite) is COMMAND or not self.case else f"{title}, {self.case}"

    @property
    def baseline(self) -> Row | None:
        return next((row for row in self.measured if row.ratio == 1.0), None)


def seconds(value: float | None) -> str:
    """Three figures, in the unit that suits."""
    if value is None:
        return ""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= scale or unit == "µs":
            return f"{figures(value / scale)} {unit}"
    return ""


def figures(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def size(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value / GB:.2f} GB" if value >= GB / 10 else f"{value / 1e6:.1f} MB"


def spread(row: Row) -> str:
    return seconds(row.median_seconds)


def between(row: Row) -> str:
    if not row.rounds:
        return ""
    if row.rounds < 2 or row.min_seconds is None or row.max_seconds is None:
        return "one run"
    least, most = seconds(row.min_seconds).split(), seconds(row.max_seconds).split()
    return f"{least[0]}-{most[0]}" if least[1] == most[1] else f"{' '.join(least)}-{' '.join(most)}"


def ratio(row: Row) -> str:
    return "" if row.ratio is None else f"{row.ratio:.2f}" + ("" if row.interleaved else "*")


def error(row: Row) -> str:
    if row.error is None or (row.ratio == 1.0 and not row.error):
        return ""
    text = f"{row.error:.0e}" if row.error else "equal"
    return f"{text}, {row.psnr:.1f} dB" if row.psnr is not None else text


def start(row: Row) -> str:
    return " + ".join(filter(None, [seconds(row.load_seconds), seconds(row.first_seconds)]))


def parts(row: Row) -> str:
    """The largest ones."""
    show = size if row.disk_bytes else seconds
    largest = sorted(row.parts.items(), key=lambda item: -item[1])[:8]
    return ", ".join(f"{name} {show(value)}" for name, value in (largest if row.disk_bytes else row.parts.items()))


NAME = (
    Column("contender", lambda r: r.contender),
    Column("on", lambda r: r.provider, "the provider"),
    Column("in", lambda r: r.precision, "the arithmetic"),
)
TIME = (
    Column("median", spread, "of the rounds, after a warm-up"),
    Column("min-max", between),
    Column("rounds", lambda r: str(r.rounds or "")),
    Column("speed", ratio, "how many times the baseline's, in the same rounds; * not in turns"),
)
RUN = (
    *NAME,
    *TIME,
    Column("load + first run", start, "from a fresh process: imports, weights, compilation, whichever comes when"),
    Column("memory", lambda r: size(r.peak_bytes), "peak, resident, of its own process, mapped weights included"),
    Column("VRAM", lambda r: size(r.vram_bytes)),
    Column("bound", lambda r: seconds(r.bound_seconds), "see below"),
    Column("of bound", lambda r: "" if r.bound_fraction is None else f"{100 * r.bound_fraction:.0f} %"),
    Column("error", error, "relative L2 distance from the output of eager fp32; PSNR of pictures"),
)
COMMAND = (
    Column("contender", lambda r: r.contender),
    *TIME,
    Column("peak memory", lambda r: size(r.peak_bytes), "of the largest process"),
    Column("disk", lambda r: size(r.disk_bytes)),
    Column("of which", parts, wide=True),
)
SCHEDULER = (
    Column("scheduler", lambda r: r.stage),
    Column("latents", lambda r: r.case),
    Column("diffrt", lambda r: seconds(r.median_seconds)),
    Column("diffusers", lambda r: seconds(r.baseline_seconds)),
    Column("x diffusers", ratio),
)
COLUMNS = {"start": COMMAND, "export": COMMAND, "schedulers": SCHEDULER}


def sections(rows: Sequence[Row]) -> list[Section]:
    """In the order in which they were first measured."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        key = (row.suite, "", row.suite) if row.suite == "schedulers" else (row.suite, row.case, row.stage)
        groups.setdefault(key, []).append(row)
    made = []
    for (suite, case, stage), group in groups.items():
        measured = [row for row in group if row.status == "measured"]
        if suite == "schedulers":
            measured = [row for row in measured if row.contender == "diffrt"]
        else:
            measured.sort(key=lambda row: (-(row.ratio or 0), row.median_seconds or row.disk_bytes or 0))
        columns = tuple(c for c in COLUMNS.get(suite, RUN) if any(c.cell(row) for row in measured))
        absent = tuple(row for row in group if row.status != "measured")
        made.append(Section(suite, case, stage, tuple(measured), absent, columns))
    order = list(SUITES)
    return sorted(made, key=lambda section: order.index(section.suite))
