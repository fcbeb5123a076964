"""The kept figures beside those of vLLM, FlashAttention-3 and cuBLAS on the same card: a table and a plot.

    python benchmarks/report.py [--results benchmarks/results] [--svg docs/performance-h100.svg]

Reads the dated files that --save wrote, and anchors.json: what was measured elsewhere, and where the same
figure is in our rows. Of several rows the median counts. Prints the table of docs/performance.md; --svg draws
it, as a ratio over the anchor: right of 1 is better.
"""

import argparse
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BETTER, WORSE = "#3b7a57", "#b3583b"


@dataclass(frozen=True)
class Row:
    name: str
    unit: str
    ours: float | None  # None: not measured
    anchor: float
    of: str
    lower: bool  # is better

    @property
    def ratio(self) -> float:
        """How many times as good as the anchor."""
        assert self.ours is not None
        return self.anchor / self.ours if self.lower else self.ours / self.anchor


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--svg", type=Path)
    options = parser.parse_args()
    rows = read(json.loads((HERE / "anchors.json").read_text()), kept(options.results))
    print("\n".join(table(rows)))
    if options.svg:
        draw([row for row in rows if row.ours is not None], options.svg)
    return 0


def kept(directory: Path) -> list[dict[str, Any]]:
    """All rows; those of the engine show its tensor_parallel, too."""
    lines = [line for path in sorted(directory.glob("*.jsonl")) for line in path.read_text().splitlines()]
    rows = [json.loads(line) for line in lines]
    return [row | {"tensor_parallel": row.get("engine", {}).get("tensor_parallel")} for row in rows]


def read(anchors: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[Row]:
    return [row_of(anchor, rows) for anchor in anchors]


def row_of(anchor: dict[str, Any], rows: list[dict[str, Any]]) -> Row:
    lower = anchor.get("lower", False)
    wanted = {"bench": anchor["bench"], **anchor["where"]}
    found = [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]
    values = [row[anchor["field"]] * anchor.get("times", 1) for row in found]
    ours = statistics.median(values) if values else None
    return Row(anchor["name"], anchor["unit"], ours, anchor["anchor"], anchor["of"], lower)


def table(rows: list[Row]) -> list[str]:
    lines = ["| what | ours | anchor | ratio |", "|---|---|---|---|"]
    for row in rows:
        if row.ours is None:
            lines.append(f"| {row.name} | not measured | {row.anchor:g} {row.unit} ({row.of}) | |")
        else:
            ours = f"{row.ours:.3g} {row.unit}"
            lines.append(f"| {row.name} | {ours} | {row.anchor:g} {row.unit} ({row.of}) | {row.ratio:.2f} |")
    return lines


def draw(rows: list[Row], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "mii", "svg.fonttype": "none", "font.family": "sans-serif"})
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 0.36 * len(rows) + 1), layout="constrained")
    places = range(len(rows), 0, -1)
    for place, row in zip(places, rows, strict=True):
        colour = BETTER if row.ratio >= 1 else WORSE
        axes.plot([1, row.ratio], [place, place], color=colour, linewidth=6, solid_capstyle="butt")
        where = {"ha": "left", "x": max(row.ratio, 1) + 0.01}
        axes.text(y=place, s=f"{row.ours:.3g} {row.unit}", va="center", fontsize=8, color="#333333", **where)
    axes.axvline(1, color="#333333", linewidth=1)
    axes.set_yticks(list(places), [f"{row.name}  (over {row.of})" for row in rows], fontsize=8)
    axes.set_xlim(min(0.9, *(row.ratio - 0.02 for row in rows)), max(row.ratio for row in rows) + 0.25)
    axes.set_xlabel("times as good as the anchor on the same card", fontsize=8)
    axes.tick_params(length=0, labelsize=8)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
