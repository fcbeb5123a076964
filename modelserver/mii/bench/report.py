"""Shows summaries: a table for people, JSON lines for programs, a plot of the throughput-latency curve."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table

from mii.bench.measure import Summary

BUSY_CLIENT = 0.8  # of a core: beyond it the measuring process may be what limits


def table(summaries: Sequence[Summary], title: str) -> Table:
    """Fits 80 columns. TTFT: time to first token; ITL: inter-token latency."""
    result = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for heading in (
        "clients",
        "req/s",
        "output\ntok/s",
        "prompt\ntok/s",
        "latency\nmean s",
        "TTFT ms\np50/p95",
        "ITL ms\np50/p95/p99",
        "errors",
    ):
        result.add_column(heading, justify="right", no_wrap=True)
    for level in summaries:
        result.add_row(*_row(level), style="red" if level.errors else None)
    return result


def notes(summaries: Sequence[Summary]) -> list[str]:
    """What a reader must know beside the table: the first error, cache hits, a busy client."""
    lines = [
        f"{s.errors} errors at {s.clients} clients, the first: {s.first_error}" for s in summaries if s.errors
    ]
    cached = max((s.cached_tokens_mean or 0.0 for s in summaries), default=0.0)
    if cached >= 1:
        lines.append(
            f"the server's prefix cache held up to {cached:.0f} tokens of a prompt on average: "
            "another --seed draws other prompts"
        )
    busy = max((s.client_cpu or 0.0 for s in summaries), default=0.0)
    if busy > BUSY_CLIENT:
        lines.append(f"this client used {busy:.2f} cores: it may have limited what was measured")
    return lines


def json_line(summary: Summary, context: dict[str, Any]) -> str:
    """One object: `context` (what was asked, of whom, on what), then the summary's fields."""
    return msgspec.json.encode({**context, **asdict(summary)}).decode()


def plot(summaries: Sequence[Summary], path: Path, title: str) -> None:
    """Writes a PNG: mean latency and, where tokens stream, their gaps, over the output tokens/s reached."""
    measured = [s for s in summaries if s.requests]
    streamed = any(s.itl_p50 is not None for s in measured)
    figure = Figure(figsize=(11 if streamed else 6, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    panels = figure.subplots(1, 2 if streamed else 1, squeeze=False)[0]
    _panel(panels[0], measured, {"mean": "latency_mean"}, "latency of a request (s)")
    if streamed:
        gaps = {"p95": "itl_p95", "p50": "itl_p50"}
        _panel(panels[1], measured, gaps, "time between tokens (ms)", scale=1000)
    figure.savefig(path, format="png", dpi=130)


def _panel(
    axes: Any, summaries: Sequence[Summary], curves: dict[str, str], unit: str, *, scale: float = 1
) -> None:
    """`curves`: label → field of Summary. The points of the first, upper one carry their client counts."""
    for label, name in curves.items():
        points = [(s, getattr(s, name) * scale) for s in summaries if getattr(s, name) is not None]
        axes.plot([s.output_tokens_per_second for s, _ in points], [y for _, y in points], "o-", label=label)
        for s, y in points if label == next(iter(curves)) else ():
            place = (s.output_tokens_per_second, y)
            axes.annotate(str(s.clients), place, xytext=(0, 7), textcoords="offset points", ha="center")
    axes.set_xlabel("output tokens/s, all clients together")
    axes.set_ylabel(unit)
    axes.set_xlim(0, axes.get_xlim()[1] * 1.05)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.15)  # room for the labels
    axes.grid(alpha=0.3)
    axes.legend(title="numbers: clients", loc="lower right")


def _row(s: Summary) -> list[str]:
    return [
        str(s.clients),
        f"{s.requests_per_second:.2f}",
        _rate(s.output_tokens_per_second),
        _rate(s.prompt_tokens_per_second),
        _number(s.latency_mean, 1, ".2f"),
        _joined(s.ttft_p50, s.ttft_p95),
        _joined(s.itl_p50, s.itl_p95, s.itl_p99),
        str(s.errors),
    ]


def _rate(value: float) -> str:
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def _joined(*seconds: float | None) -> str:
    """Milliseconds, with a decimal where it says something."""
    return "/".join(_number(s, 1000, ".1f" if s is not None and s < 0.1 else ".0f") for s in seconds)


def _number(value: float | None, scale: float, spec: str) -> str:
    return "–" if value is None else format(value * scale, spec)
