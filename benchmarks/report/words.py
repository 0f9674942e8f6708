"""What the page and the Markdown file say around the tables."""

from collections.abc import Sequence

from benchmarks.report.tables import GB, Section, figures
from benchmarks.rows import Row

TITLE = "diffrt: benchmarks"
HOW = (
    "Every contender ran in a process of its own, on the same weights and inputs, in turns with the baseline: a speed "
    "is a ratio of medians that saw the same minutes of the same machine. What memory did not hold beside the "
    "baseline ran after it and has a star."
)
BOUND = (
    "The bound is what the arithmetic takes at the rate of a large matrix product on this machine, or reading every "
    "weight once, whichever is longer. It is no law: a convolution by Winograd's method does with fewer "
    "multiplications."
)


def machines(rows: Sequence[Row]) -> list[str]:
    """A line for each machine that the rows are of."""
    lines = []
    for row in rows:
        m = row.machine
        if m:
            cpu = f"{m['cpu']} ({m['family']}), {m['cores']} cores, {m['memory'] / GB:.0f} GB"
            lines.append("; ".join(filter(None, [m.get("gpu"), cpu, ", ".join(m["flags"]), m["system"]])))
    return list(dict.fromkeys(lines))


def rates(rows: Sequence[Row]) -> str:
    """The newest of each."""
    found = {row.precision: row.rate for row in rows if row.rate}
    bandwidth = [row.bandwidth for row in rows if row.bandwidth]
    texts = [f"{name} {figures(rate / 1e9)} GFLOP/s" for name, rate in sorted(found.items())]
    return ", ".join([*texts, f"memory {bandwidth[-1] / GB:.0f} GB/s"]) if texts and bandwidth else ""


def versions(rows: Sequence[Row]) -> str:
    found = {name: version for row in rows for name, version in row.versions.items()}
    return ", ".join(f"{name} {version}" for name, version in sorted(found.items()))


def commands(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.command for row in rows if row.command))


def dates(rows: Sequence[Row]) -> str:
    days = sorted({row.date[:10] for row in rows if row.date})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}" if days else ""


def work(section: Section) -> str:
    """What one run is: sizes and FLOPs."""
    if section.suite == "schedulers":
        return "CPU time on one core; 20 steps of each class's default config, many times over"
    row = section.baseline or next(iter(section.measured), None)
    if row is None:
        return ""
    shapes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in row.shapes.items())
    flops = f"{row.flops / 1e12:.2f} TFLOP" if row.flops and row.flops > 1e11 else f"{(row.flops or 0) / 1e9:.1f} GFLOP"
    return "; ".join(filter(None, [shapes, flops if row.flops else ""]))


def verdict(section: Section) -> str:
    """The best of ours beside the best of the others, whichever leads. By ratios: of those that ran in turns with one
    baseline they are the fairer measure."""
    timed = [row for row in section.measured if row.ratio]
    ours = [row for row in timed if row.runtime.startswith("diffrt")]
    others = [row for row in timed if not row.runtime.startswith("diffrt")]
    if section.suite == "schedulers" or not ours or not others:
        return ""
    a, b = (max(each, key=lambda row: row.ratio or 0) for each in (ours, others))
    first, second = a.ratio or 0.0, b.ratio or 1.0
    if b.ratio == 1.0:
        best = ", the best of the others" if len(others) > 1 else ""
        standing = f"{first:.2f} times as fast as" if first >= 1 else f"slower, {1 / first:.2f} times the time of"
        return f"{a.contender} is {standing} {b.contender}{best}."
    standing = f"{a.contender} {first:.2f}, {b.contender} {second:.2f} times as fast as the baseline"
    leads = "leads" if first >= second else "trails"
    return f"diffrt {leads}, {first / second:.2f} to the best of the others: {standing}."


def glance(sections: Sequence[Section]) -> list[tuple[str, str]]:
    """The verdicts, each with what it is about."""
    return [(section.title, verdict(section)) for section in sections if verdict(section)]


def absent(row: Row) -> str:
    return f"{row.contender} ({row.status}): {row.reason}"
