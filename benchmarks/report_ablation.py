"""The table of what each part of the engine buys, from the rows of ablation.py."""

import statistics
import textwrap
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
HEAD = [
    "| without | requests/s | ratio | one stream, per token | ratio | same first tokens |",
    "|---|---|---|---|---|---|",
]
_SWITCHES = {"cuda_graphs": "CUDA graphs", "overlap": "overlap", "kernels": "all kernels"}


@dataclass(frozen=True)
class Figure:
    """The median of some runs; None if one of them was broken off, and then what their ratio is below."""

    median: float | None
    whole: float
    below: float

    @classmethod
    def of(cls, runs: list[Row], whole: list[Row], field: str) -> "Figure":
        bounds = [run["of_all_below"] for run in runs if "of_all_below" in run]
        median = None if bounds else statistics.median(run[field] for run in runs)
        return cls(median, statistics.median(run[field] for run in whole), max(bounds, default=1.0))

    def ratio(self, *, lower: bool) -> str:
        """How fast it is, 1 being the engine with everything on. `lower`: less is faster."""
        if self.median is None:
            return f"less than {self.below:.2f}"
        return f"{self.whole / self.median if lower else self.median / self.whole:.2f}"


def table(rows: list[Row]) -> list[str]:
    """Of the kept rows (`report.kept`), the last that were measured on a GPU; empty if there are none."""
    measured = [row for row in rows if row["bench"] == "ablation" and row["card"]]
    if not measured:
        return []
    found = [row for row in measured if _setting(row) == _setting(measured[-1])]
    parts = {part: [row for row in found if row["off"] == part] for part in (row["off"] for row in found)}
    whole = parts.pop(None)
    lines = [line(runs, whole) for runs in (whole, *parts.values())]
    return [*caption(whole[-1]), "", *HEAD, *lines]


def _setting(row: Row) -> tuple[Any, ...]:
    names = ("date", "card", "model", "options", "requests", "workload", "spread", "sampling")
    return (*(row[name] for name in names), row["stream"]["workload"])


def caption(row: Row) -> list[str]:
    command = " ".join(filter(None, ["python benchmarks/ablation.py --shape", row["model"], row["options"]]))
    card, stream = row["card"].removeprefix("NVIDIA "), row["stream"]["workload"]
    text = (
        f"Whole runs of {row['model']} without one part each: {row['requests']} requests of "
        f"{row['workload']} at once, and one stream of {stream}, on an {card}, {row['date']} (`{command}`). "
        "Without its kernel an operation is PyTorch's; `gated_linear` is the first product of an MLP with "
        "its activation, `linear_onto` one that is added to the residual, both of few tokens too, `linear` "
        "the other products. Ratios are of speeds. First tokens are of 16 short prompts; those of random "
        "weights are so close to others that rounding alone changes some."
    )
    return textwrap.wrap(text, 118, break_long_words=False, break_on_hyphens=False)


def line(runs: list[Row], whole: list[Row]) -> str:
    """`whole`: the runs with everything on."""
    rate = Figure.of(runs, whole, "requests_per_second")
    token = Figure.of([run["stream"] for run in runs], [run["stream"] for run in whole], "itl_p50")
    same = statistics.median(row["same_first"] for row in runs)
    cells = [
        left_out(runs[-1], whole[-1]),
        digits(rate.median) if rate.median else "",
        rate.ratio(lower=False),
        f"{digits(1000 * token.median)} ms" if token.median else "",
        token.ratio(lower=True),
        f"{same:.0%}",
    ]
    return f"| {' | '.join(cells)} |"


def left_out(row: Row, whole: Row) -> str:
    if row["off"] is None:
        return "nothing"
    name = _SWITCHES.get(row["off"], f"the kernel of `{row['off']}`")
    graphs_too = whole["cuda_graphs"] and not row["cuda_graphs"] and row["off"] != "cuda_graphs"
    return f"{name}, and so without CUDA graphs" if graphs_too else name


def digits(value: float) -> str:
    """Three that count, zeros too."""
    return f"{value:#.3g}".rstrip(".")
