"""The plot of benchmarks/report.py: a bar for each workload, from nothing to its ratio over the anchor."""

from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from report import Row
from report_ablation import digits

INK, AHEAD, BEHIND = "#333333", "#7fa8c9", "#d9a679"
LONGEST = 2.5  # bar: one that is longer would leave no room to tell the others apart, and its label says it


def draw(rows: list[Row], path: Path) -> None:
    """Equal rows give equal bytes, text as text."""
    with mpl.rc_context({"svg.hashsalt": "mii", "svg.fonttype": "none", "font.family": "DejaVu Sans"}):
        figure = figure_of(rows)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
        plt.close(figure)


def figure_of(rows: list[Row]) -> Figure:
    figure, axes = plt.subplots(figsize=(9, 0.32 * len(rows) + 0.9), layout="constrained")
    places = list(range(len(rows), 0, -1))
    colours = [AHEAD if row.ratio >= 1 else BEHIND for row in rows]
    lengths = [min(row.ratio, LONGEST) for row in rows]
    axes.barh(places, lengths, height=0.66, color=colours)
    for place, length, row in zip(places, lengths, rows, strict=True):
        axes.text(max(length, 1) + 0.02, place, label(row), va="center", fontsize=8, color=INK)
    axes.axvline(1, color=INK, linewidth=1)
    axes.set_yticks(places, [f"{row.name}  (over {row.of})" for row in rows], fontsize=8)
    axes.set_ylim(0.4, len(rows) + 0.6)
    axes.set_xlim(0, max(lengths, default=1.0) + 0.6)
    axes.set_xlabel(f"times as good as the anchor, which is 1; bars end at {LONGEST}", fontsize=8, color=INK)
    axes.tick_params(length=0, labelsize=8, labelcolor=INK)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    return figure


def label(row: Row) -> str:
    again = f"; {row.over(row.again):.2f} in our harness" if row.again is not None else ""
    return f"{row.ratio:.2f} ({digits(row.ours)} {row.unit}{again})"
