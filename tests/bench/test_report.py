"""The tables of figures beside their anchors, and the plot."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PAGE = BENCHMARKS.parent / "docs" / "performance.md"
ANCHOR = {"name": "a", "unit": "ms", "anchor": 10, "of": "x", "bench": "b", "field": "t", "command": "c"} | {
    "where": {"n": 1, "card": "NVIDIA H", "options": None}
}


@pytest.fixture(scope="module")
def report() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("report")


def made(report: ModuleType, t: float, day: str = "2026-01-01", gpu: str = "NVIDIA H", **more: object) -> Any:
    return report.widened({"bench": "b", "n": 1, "t": t, "hardware": {"gpus": [gpu]}} | more, day)


def test_the_median_of_the_latest_day_counts_and_its_range_shows(report: ModuleType) -> None:
    rows = [made(report, 2.0)] + [made(report, t, "2026-01-02") for t in (9.0, 4.0, 8.0)]
    rows.append(made(report, 1.0, n=2))
    row = report.row_of(ANCHOR, rows)
    assert (row.ours, row.ratio, row.measured) == (8, 0.8, "2026-01-02, H")
    assert report.ours(row) == "8.00 ms (4.00 to 9.00 in 3 runs)"
    assert report.row_of(ANCHOR | {"lower": True, "times": 2}, rows).ratio == 10 / 16


def test_another_card_or_a_part_switched_off_does_not_count(report: ModuleType) -> None:
    rows = [made(report, 4.0, gpu="NVIDIA H2"), made(report, 5.0, options="--no-overlap")]
    assert report.row_of(ANCHOR, rows).runs == ()


def test_rates_are_of_the_whole_run(report: ModuleType) -> None:
    row = report.widened({"requests": 8, "seconds": 4.0, "requests_per_second": 3.0}, "2026-01-01")
    assert row["whole_run_requests_per_second"] == 2


def test_what_was_not_measured_says_so(report: ModuleType) -> None:
    assert report.line(report.row_of(ANCHOR, [])) == "| a | not measured | 10 ms (x) |  |  | `c` |"


def test_an_anchor_measured_again_stands_beside(report: ModuleType) -> None:
    rows = [made(report, 8.0), made(report, 9.0, options="theirs")]
    anchor = ANCHOR | {"lower": True, "aim": 12, "again": {"options": "theirs"}}
    line = report.line(report.row_of(anchor, rows))
    assert "| 10 ms (x; at most 12), 9.00 in our harness | 1.25, 1.12 |" in line


def test_only_what_is_between_the_markers_changes(report: ModuleType) -> None:
    page = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    once = report.between_markers(page, ["new"])
    assert once == f"before\n{report.BEGIN}\n\nnew\n\n{report.END}\nafter\n"
    assert report.between_markers(once, ["new"]) == once
    with pytest.raises(SystemExit, match="once each"):
        report.between_markers("no markers", [])


def test_the_page_shows_the_kept_results(report: ModuleType) -> None:
    anchors = json.loads((BENCHMARKS / "anchors.json").read_text())
    page = PAGE.read_text()
    assert report.rewritten(page, anchors, report.kept(BENCHMARKS / "results")) == page


def part(report: ModuleType, off: str | None, day: str = "2026-01-02", **more: Any) -> Any:
    row: dict[str, Any] = {
        "bench": "ablation",
        "off": off,
        "options": None,
        "spread": 0.3,
        "sampling": "greedy",
    }
    row |= {
        "requests": 8,
        "workload": "9/4",
        "cuda_graphs": True,
        "same_first": 1.0,
        "engine": {"model": "m"},
    }
    return report.widened(row | {"hardware": {"gpus": ["NVIDIA H"]}} | more, day)


def runs(rate: float, itl: float) -> dict[str, Any]:
    return {"requests_per_second": rate, "stream": {"workload": "9/2", "itl_p50": itl}}


def test_what_each_part_buys(report: ModuleType) -> None:
    cut: dict[str, Any] = {
        "stream": {"workload": "9/2", "itl_p50": 0.02},
        "cut_after": 3.0,
        "of_all_below": 0.25,
    }
    rows = [
        part(report, None, "2026-01-01", **runs(99.0, 9.0)),  # another day
        part(report, None, **runs(20.0, 0.005)),
        part(report, None, **runs(20.4, 0.005)),
        part(report, "cuda_graphs", cuda_graphs=False, **runs(10.1, 0.01)),
        part(report, "greedy", same_first=0.875, **runs(20.2, 0.0051)),
        part(report, "paged_attention", cuda_graphs=False, **cut),
        part(report, "overlap", hardware={}, **runs(1.0, 1.0)),  # no GPU
    ]
    *caption, head, _, nothing, graphs, greedy, attention = report.report_ablation.table(rows)
    assert "`python benchmarks/ablation.py --shape m`" in " ".join(caption)
    assert head.count("|") == nothing.count("|") == attention.count("|")
    assert nothing == "| nothing | 20.2 | 1.00 | 5.00 ms | 1.00 | 100% |"
    assert graphs == "| CUDA graphs | 10.1 | 0.50 | 10.0 ms | 0.50 | 100% |"
    assert greedy == "| the kernel of `greedy` | 20.2 | 1.00 | 5.10 ms | 0.98 | 88% |"
    name = "the kernel of `paged_attention`, and so without CUDA graphs"
    assert attention == f"| {name} |  | less than 0.25 | 20.0 ms | 0.25 | 100% |"


def test_what_was_written_by_hand_stays_until_there_are_rows(report: ModuleType) -> None:
    begin, end = report.ABLATION
    page = f"{report.BEGIN}\n{report.END}\n{begin}\nby hand\n{end}\nafter"
    assert "by hand" in report.rewritten(page, [], [])
    once = report.rewritten(page, [], [part(report, None, **runs(20.0, 0.005))])
    assert "by hand" not in once
    assert "| nothing | 20.0 |" in once
    assert once.endswith(f"{end}\nafter")


def test_the_plot_is_the_same_each_time(report: ModuleType, tmp_path: Path) -> None:
    draw = importlib.import_module("report_plot").draw
    rows = [
        report.Row(name, "ms", 10.0, "x", True, "c", runs=(ours,)) for name, ours in (("a", 8.0), ("b", 12.0))
    ]
    for name in ("one.svg", "two.svg"):
        draw(rows, tmp_path / name)
    drawn = (tmp_path / "one.svg").read_text()
    assert drawn == (tmp_path / "two.svg").read_text()
    assert "1.25 (8.00 ms)" in drawn
    assert "dc:date" not in drawn
