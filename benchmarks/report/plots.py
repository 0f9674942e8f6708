"""Bars of a section: seconds, each with its bound as a mark, and memory. Written as PNG, and as SVG for the page."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from benchmarks.report.tables import GB, Section, figures
from benchmarks.rows import Row

OURS, BASELINE, OTHERS, MARK, INK = "#e4572e", "#5b6770", "#a9b4c2", "#14213d", "#333333"
STYLE: dict[str, Any] = {
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


def draw(section: Section, folder: Path) -> dict[str, str]:
    """"seconds", "memory" or "disk" -> SVG. The PNG of each lies in the folder as NAME-seconds.png."""
    drawn = {}
    if section.suite == "schedulers":
        return {}
    values = {
        "seconds": [row.median_seconds for row in section.measured],
        "memory": [row.peak_bytes and row.peak_bytes / GB for row in section.measured],
        "disk": [row.disk_bytes and row.disk_bytes / GB for row in section.measured],
    }
    units = {"seconds": "seconds, less is better", "memory": "peak memory, GB", "disk": "disk, GB"}
    for kind, each in values.items():
        shown = [(row, value) for row, value in zip(section.measured, each, strict=True) if value is not None]
        if len(shown) > 1:
            drawn[kind] = bars(shown, units[kind], kind == "seconds", folder / f"{section.name}-{kind}.png")
    return drawn


def bars(shown: Sequence[tuple[Row, float]], unit: str, bound: bool, png: Path) -> str:
    with plt.rc_context(STYLE):
        fig, ax = plt.subplots(figsize=(8.4, 0.7 + 0.34 * len(shown)), layout="constrained")
        names = [row.contender for row, _ in shown]
        values = [value for _, value in shown]
        ax.barh(names, values, color=[colour(row) for row, _ in shown], height=0.68, zorder=2)
        top = max(values)
        for i, (row, value) in enumerate(shown):
            times = f"   {row.ratio:.2f}x" if bound and row.ratio and row.ratio != 1.0 else ""
            ax.text(value + 0.012 * top, i, figures(value) + times if value >= 0.1 else f"{value:.2g}{times}", va="center")
            if bound and row.bound_seconds is not None:
                ax.plot([row.bound_seconds] * 2, [i - 0.34, i + 0.34], color=MARK, linewidth=2.2, zorder=3)
        if bound and any(row.bound_seconds is not None for row, _ in shown):
            ax.plot([], [], color=MARK, linewidth=2.2, label="bound in its arithmetic")
            ax.legend(loc="lower right", frameon=False)
        ax.invert_yaxis()
        ax.set_xlim(0, 1.2 * top)
        ax.set_xlabel(unit)
        ax.grid(axis="x", color="#e8e8e8", zorder=0)
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.tick_params(length=0)
        fig.savefig(png, dpi=150, facecolor="white")
        out = io.StringIO()
        fig.savefig(out, format="svg", transparent=True, metadata={"Date": None})
        plt.close(fig)
    return out.getvalue()[out.getvalue().index("<svg") :]


def colour(row: Row) -> str:
    return OURS if row.runtime.startswith("diffrt") else BASELINE if row.ratio == 1.0 else OTHERS
