"""The table of figures beside their anchors."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ANCHOR = {"name": "a", "unit": "ms", "anchor": 10, "of": "x", "bench": "b", "where": {"n": 1}, "field": "t"}


@pytest.fixture(scope="module")
def report() -> ModuleType:
    spec = importlib.util.spec_from_file_location("report", BENCHMARKS / "report.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["report"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_median_of_matching_rows_counts(report: ModuleType) -> None:
    rows = [{"bench": "b", "n": n, "t": t} for n, t in ((1, 4), (1, 8), (1, 9), (2, 1))]
    row = report.row_of(ANCHOR, rows)
    assert (row.ours, row.ratio) == (8, 0.8)
    assert report.row_of(ANCHOR | {"lower": True, "times": 2}, rows).ratio == 10 / 16


def test_what_was_not_measured_says_so(report: ModuleType) -> None:
    assert report.table([report.row_of(ANCHOR, [])])[-1] == "| a | not measured | 10 ms (x) | |"


def test_every_anchor_has_a_figure_and_the_page_shows_it(report: ModuleType) -> None:
    anchors = json.loads((BENCHMARKS / "anchors.json").read_text())
    lines = report.table(report.read(anchors, report.kept(BENCHMARKS / "results")))
    page = (BENCHMARKS.parent / "docs" / "performance.md").read_text()
    assert all("not measured" not in line and line in page for line in lines)


def test_the_plot_is_the_same_each_time(report: ModuleType, tmp_path: Path) -> None:
    rows = [report.Row("a", "ms", 8.0, 10.0, "x", True), report.Row("b", "µs", 12.0, 10.0, "x", True)]
    for name in ("one.svg", "two.svg"):
        report.draw(rows, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
