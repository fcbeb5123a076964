"""The kept figures beside those of vLLM, FlashAttention-3 and cuBLAS on the same card: tables and a plot.

    python benchmarks/report.py [--results benchmarks/results] [--page docs/performance.md]
        [--svg docs/performance-h100.svg]

Reads the dated files that --save wrote, and anchors.json: what was measured elsewhere, on which card, and
where the same figure is in our rows. Of several rows the median of the latest day counts; its range stands
beside it.
Writes the tables between the two markers of the page, and the plot: ratios over the anchors, of which more
is better. The rows of ablation.py, if there are any, become the table between two markers of their own.
"""

import argparse
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import report_ablation
from report_ablation import digits

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
BEGIN, END = "<!-- benchmarks/report.py: begin -->", "<!-- benchmarks/report.py: end -->"
ABLATION = "<!-- benchmarks/report.py: ablation -->", "<!-- benchmarks/report.py: end of ablation -->"
HEAD = ["| what | ours | anchor | ratio | measured | command |", "|---|---|---|---|---|---|"]


@dataclass(frozen=True)
class Row:
    name: str
    unit: str
    anchor: float
    of: str
    lower: bool  # is better
    command: str
    aim: float | None = None  # below which we do not want to be, or above
    runs: tuple[float, ...] = ()  # what we measured on the latest day; none: not measured
    again: float | None = None  # what the anchor's program takes in our own harness
    measured: str = ""  # day and card

    @property
    def ours(self) -> float:
        return statistics.median(self.runs)

    @property
    def ratio(self) -> float:
        """How many times as good as the anchor."""
        return self.over(self.anchor)

    def over(self, other: float) -> float:
        return other / self.ours if self.lower else self.ours / other


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=HERE / "results", metavar="DIR")
    parser.add_argument("--page", type=Path, default=DOCS / "performance.md", metavar="FILE")
    parser.add_argument("--svg", type=Path, default=DOCS / "performance-h100.svg", metavar="FILE")
    options = parser.parse_args()
    from report_plot import draw

    anchors = json.loads((HERE / "anchors.json").read_text())
    rows = kept(options.results)
    options.page.write_text(rewritten(options.page.read_text(), anchors, rows))
    draw([row for row in read(anchors, rows) if row.runs], options.svg)
    return 0


def rewritten(page: str, anchors: list[dict[str, Any]], rows: list[dict[str, Any]]) -> str:
    page = between_markers(page, tables(anchors, read(anchors, rows)))
    ablation = report_ablation.table(rows)
    return between_markers(page, ablation, *ABLATION) if ablation else page


def kept(directory: Path) -> list[dict[str, Any]]:
    """All rows, oldest first, each with what the anchors ask for besides."""
    return [
        widened(json.loads(line), path.name[: len("2026-01-31")])
        for path in sorted(directory.glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]


def widened(row: dict[str, Any], date: str) -> dict[str, Any]:
    engine, gpus = row.get("engine", {}), row.get("hardware", {}).get("gpus", [])
    more = {"date": date, "card": gpus[0] if gpus else None}
    more |= {"model": engine.get("model"), "tensor_parallel": engine.get("tensor_parallel")}
    if "seconds" in row and "requests" in row:  # requests_per_second leaves out a closed loop's end
        more["whole_run_requests_per_second"] = row["requests"] / row["seconds"]
    return row | more


def read(anchors: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[Row]:
    return [row_of(anchor, rows) for anchor in anchors]


def row_of(anchor: dict[str, Any], rows: list[dict[str, Any]]) -> Row:
    times = anchor.get("times", 1)
    found = latest(matching(anchor, rows, {}))
    again = latest(matching(anchor, rows, anchor["again"])) if "again" in anchor else []
    return Row(
        anchor["name"],
        anchor["unit"],
        anchor["anchor"],
        anchor["of"],
        anchor.get("lower", False),
        anchor["command"],
        anchor.get("aim"),
        tuple(row[anchor["field"]] * times for row in found),
        statistics.median(row[anchor["field"]] * times for row in again) if again else None,
        f"{found[-1]['date']}, {found[-1]['card'].removeprefix('NVIDIA ')}" if found else "",
    )


def latest(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the last day."""
    return [row for row in rows if row["date"] == rows[-1]["date"]]


def matching(
    anchor: dict[str, Any], rows: list[dict[str, Any]], other: dict[str, Any]
) -> list[dict[str, Any]]:
    """Rows with the anchor's figure. A value that is null must be absent or null in the row, too."""
    wanted = {"bench": anchor["bench"], **anchor["where"], **other}
    alike = [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]
    return [row for row in alike if row.get(anchor["field"]) is not None]


def tables(anchors: list[dict[str, Any]], rows: list[Row]) -> list[str]:
    """One for the engine, one for the kernels."""
    of_kernels = [anchor["bench"] == "kernels" for anchor in anchors]
    parts = [
        [*HEAD, *(line(row) for row, is_kernel in zip(rows, of_kernels, strict=True) if is_kernel == one)]
        for one in dict.fromkeys(of_kernels)
    ]
    return "\n\n".join("\n".join(part) for part in parts).splitlines()


def line(row: Row) -> str:
    aim = f"; at {'most' if row.lower else 'least'} {row.aim:g}" if row.aim is not None else ""
    anchor = f"{row.anchor:g} {row.unit} ({row.of}{aim})"
    ratio = f"{row.ratio:.2f}" if row.runs else ""
    if row.runs and row.again is not None:
        anchor += f", {digits(row.again)} in our harness"
        ratio += f", {row.over(row.again):.2f}"
    cells = (row.name, ours(row), anchor, ratio, row.measured, f"`{row.command}`")
    return f"| {' | '.join(cells)} |"


def ours(row: Row) -> str:
    if not row.runs:
        return "not measured"
    text = f"{digits(row.ours)} {row.unit}"
    if len(row.runs) == 1:
        return text
    return f"{text} ({digits(min(row.runs))} to {digits(max(row.runs))} in {len(row.runs)} runs)"


def between_markers(page: str, lines: list[str], begin: str = BEGIN, end: str = END) -> str:
    if page.count(begin) != 1 or page.count(end) != 1:
        raise SystemExit(f"the page must hold {begin} and {end} once each")
    before, rest = page.split(begin)
    after = rest.split(end)[1]
    return "\n".join([before + begin, "", *lines, "", end + after])


if __name__ == "__main__":
    sys.exit(main())
