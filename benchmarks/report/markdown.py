"""report.md."""

from collections.abc import Mapping, Sequence

from benchmarks.report import words
from benchmarks.report.tables import SUITES, Section
from benchmarks.rows import Row


def text(sections: Sequence[Section], drawn: Mapping[str, str], rows: Sequence[Row]) -> str:
    lines = [f"# {words.TITLE}", "", words.dates(rows), "", *(f"- {line}" for line in words.machines(rows))]
    if rates := words.rates(rows):
        lines.append(f"- matrix products of 4096: {rates}")
    lines += ["", words.HOW, "", words.BOUND, ""]
    lines += [f"- **{title}**: {verdict}" for title, verdict in words.glance(sections)] + [""]
    suite = ""
    for section in sections:
        if section.suite != suite:
            suite = section.suite
            lines += [f"## {SUITES[suite]}", ""]
        lines += [f"### {section.title}", ""] if section.case else []
        lines += [line for each in (words.verdict(section), words.work(section)) if each for line in (each, "")]
        lines += [f"![{section.title}]({section.name}.png)", ""] if drawn[section.name] else []
        if section.measured:
            lines += [line([c.title for c in section.columns]), line(["---"] * len(section.columns))]
            lines += [line([c.cell(row) for c in section.columns]) for row in section.measured]
            lines.append("")
        lines += [f"- {each}" for each in missing(section)] + [""]
    lines += ["## How it was measured", "", words.versions(rows), ""]
    lines += ["```", *words.commands(rows), "```", ""]
    return "\n".join(lines)


def line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def missing(section: Section) -> list[str]:
    """Of all schedulers, those that diffrt itself could not be measured with are named at once."""
    if section.suite != "schedulers":
        return [words.absent(row) for row in section.absent]
    names = sorted({row.stage for row in section.absent if row.contender == "diffrt"})
    return [f"not measured: {', '.join(names)}"] if names else []
