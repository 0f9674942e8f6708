"""RUNS.jsonl to a page, a Markdown file and plots."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.rows import Row


def write(rows: Sequence[Row], folder: Path) -> Path:
    """Of the newest rows. Returns the page's path."""
    from benchmarks.report import markdown, page, plots, tables

    folder.mkdir(parents=True, exist_ok=True)
    sections = tables.sections(rows)
    drawn = {section.name: plots.draw(section, folder) for section in sections}
    (folder / "report.md").write_text(markdown.text(sections, drawn, rows), "utf-8")
    (folder / "index.html").write_text(page.text(sections, drawn, rows), "utf-8")
    return folder / "index.html"
