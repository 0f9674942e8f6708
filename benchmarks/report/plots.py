"""Bars of a section: seconds, each with its bound as a mark, and memory. Written as PNG, and as SVG for the page."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from benchmarks.report.tables import GB, Section, seconds
from benchmarks.rows import Row

SECONDS = "seconds, less is better"
OURS, BASELINE, OTHERS, MARK, INK = "#e4572e", "#5b6770", "#a9b4c2", "#14213d", "#333333"
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "svg.fonttype": "path",
    "svg.hashsalt": "benchmarks",
    "axes.edgecolor": "#cccccc",
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def draw(section: Section, folder: Path) -> str:
    """SVG, or nothing where there is nothing to compare. The PNG lies in the folder as NAME.png."""
    rows = section.measured
    if section.suite == "schedulers" or len(rows) < 2:
        return ""
    panels = [(unit, values) for unit, values in figures_of(rows) if any(values)]
    with plt.rc_context(STYLE):
        ratios = [2.2 if i == 0 else 1.0 for i in range(len(panels))]
        fig, axes = plt.subplots(
            1, len(panels), figsize=(11.2, 1.0 + 0.34 * len(rows)), layout="constrained", squeeze=False, sharey=True,
            width_ratios=ratios,
        )  # fmt: skip
        for i, (ax, (unit, values)) in enumerate(zip(axes[0], panels, strict=True)):
            bars(ax, rows, values, unit, with_bound=unit == SECONDS)
            ax.tick_params(labelleft=i == 0)
        axes[0][0].set_yticks(range(len(rows)), [row.contender for row in rows])
        axes[0][0].invert_yaxis()
        if any(row.bound_seconds is not None for row in rows):
            handle = plt.Line2D([], [], color=MARK, linewidth=2.2, label="bound of its arithmetic on this machine")
            fig.legend(handles=[handle], loc="outside upper left", frameon=False)
        fig.savefig(folder / f"{section.name}.png", dpi=150, facecolor="white")
        out = io.StringIO()
        fig.savefig(out, format="svg", transparent=True, metadata={"Date": None})
        plt.close(fig)
    return out.getvalue()[out.getvalue().index("<svg") :]


def figures_of(rows: Sequence[Row]) -> list[tuple[str, list[float]]]:
    """What there is to draw: axis label, and a value for each row, 0 where there is none."""
    return [
        (SECONDS, [row.median_seconds or 0 for row in rows]),
        ("peak memory, GB", [(row.peak_bytes or 0) / GB for row in rows]),
        ("GPU memory, GB", [(row.vram_bytes or 0) / GB for row in rows]),
        ("disk, GB", [(row.disk_bytes or 0) / GB for row in rows]),
    ]


def bars(ax: Any, rows: Sequence[Row], values: Sequence[float], label: str, with_bound: bool) -> None:
    top = max(values)
    ax.barh(range(len(rows)), values, color=[colour(row) for row in rows], height=0.68, zorder=2)
    for i, (row, value) in enumerate(zip(rows, values, strict=True)):
        bound = row.bound_seconds if with_bound else None
        if value:
            times = f"   {row.ratio:.2f}x" if with_bound and row.ratio and row.ratio != 1.0 else ""
            text = (seconds(value) if with_bound else f"{value:.2f}") + times
            ax.text(max(value, bound or 0) + 0.015 * top, i, text, va="center")
        if bound is not None:
            ax.plot([bound] * 2, [i - 0.34, i + 0.34], color=MARK, linewidth=2.2, zorder=3)
    ax.set_xlim(0, 1.25 * top)
    ax.set_xlabel(label)
    ax.grid(axis="x", color="#e8e8e8", zorder=0)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(length=0)


def colour(row: Row) -> str:
    return OURS if row.runtime.startswith("diffrt") else BASELINE if row.ratio == 1.0 else OTHERS
