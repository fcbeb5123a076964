"""A report in a terminal or a pipe."""

import textwrap
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from mii.cluster.events import EventLine
from mii.cluster.report import ConditionLine, Report, Summary

_MARKS = {"True": "[green]✓[/]", "False": "[red]✗[/]", "Unknown": "[yellow]?[/]"}
_ENGINE = {  # keys of status.engine, and how people say them
    "device": "{}",
    "tensorParallel": "tensor parallel {}",
    "kvBlocks": "{} KV blocks of 64 tokens",
    "maxModelLen": "at most {} tokens",
    "revision": "commit {}",
    "loadSeconds": "loaded in {:.1f} s",
}


def show_all(console: Console, rows: Sequence[Summary], *, namespaces: bool) -> None:
    """A table, with the namespaces if there may be several."""
    table = _table(*(["NAMESPACE"] if namespaces else []), "NAME", "MODEL", "TP", "READY", "REASON", "AGE")
    for row in rows:
        reason = f"[{'green' if row.ready else 'yellow'}]{escape(row.reason)}[/]"
        width = "" if row.tensor_parallel is None else str(row.tensor_parallel)
        cells = (escape(row.name), escape(row.model), width, row.replicas, reason, row.age)
        table.add_row(*([row.namespace] if namespaces else []), *cells)
    console.print(table)


def show(console: Console, report: Report) -> None:
    """From the headline to what to type."""
    _headline(console, report)
    _conditions(console, report)
    if report.engine:
        said = (text.format(report.engine[key]) for key, text in _ENGINE.items() if report.engine.get(key))
        _section(console, "Engine")
        _paragraph(console, ", ".join(said))
    _pods(console, report)
    _events(console, report.events)
    _usage(console, report)
    for note in report.notes:
        console.print(f"\n[yellow]not shown:[/] {escape(note)}", highlight=False)


def _headline(console: Console, report: Report) -> None:
    summary, verdict = report.summary, report.verdict
    state = "[bold green]ready[/]" if summary.ready else f"[bold red]not ready: {escape(verdict.reason)}[/]"
    since = f", for {verdict.since}" if verdict.since else ""
    name = f"[bold]{escape(summary.name)}[/] in {escape(summary.namespace)}"
    console.print(f"{name} is {state}{since}", highlight=False)
    console.print(escape(", ".join(report.facts)), highlight=False)
    console.print()
    _explain(console, verdict, 0)


def _conditions(console: Console, report: Report) -> None:
    """What the headline has said already is not said again."""
    if not report.conditions:
        return
    _section(console, "Conditions")
    for condition in report.conditions:
        since = f" [dim]{condition.since}[/]" if condition.since else ""
        head = f"  {_MARKS[condition.status]} {condition.type:13} [bold]{escape(condition.reason)}[/]{since}"
        console.print(head, highlight=False)
        if condition.status == "True" and not condition.advice:
            _paragraph(console, condition.message or condition.words, 4)
        elif condition.reason != report.verdict.reason:
            _explain(console, condition, 4)


def _explain(console: Console, condition: ConditionLine, indent: int) -> None:
    for text in (condition.words, condition.message):
        _paragraph(console, text, indent)
    if condition.advice:
        _paragraph(console, f"→ {condition.advice}", indent, "cyan")


def _pods(console: Console, report: Report) -> None:
    if not report.pods:
        return
    _section(console, "Pods")
    table = _table("POD", "STATE", "READY", "RESTARTS", "AGE", "NODE")
    for pod in report.pods:
        ready = "yes" if pod.ready else "no"
        table.add_row(pod.name, pod.state, ready, str(pod.restarts), pod.age, pod.node)
    console.print(Padding(table, (0, 0, 0, 2), expand=False))
    for pod in report.pods:
        if pod.said:
            _paragraph(console, f"{pod.name}: {pod.said}")
        if pod.restarts and not pod.ready:
            command = f"kubectl -n {report.summary.namespace} logs {pod.name} --previous"
            _paragraph(console, f"→ {command}", 4, "cyan")


def _events(console: Console, events: Sequence[EventLine]) -> None:
    if not events:
        return
    _section(console, "Events")
    for event in events:
        times = f" ({event.count} times)" if event.count > 1 else ""
        style = "yellow" if event.kind == "Warning" else ""
        line = f"{event.age:>4}  {event.reason} of {event.about}{times}: {event.message}"
        _paragraph(console, line, style=style)


def _usage(console: Console, report: Report) -> None:
    if not report.usage:
        return
    _section(console, "Ask it")
    _paragraph(console, f"in the cluster {report.url}, gRPC {report.grpc}; from here:")
    for line in report.usage:
        console.print(escape(line), highlight=False, soft_wrap=True)


def _section(console: Console, title: str) -> None:
    console.print(f"\n[bold]{title}[/]")


def _paragraph(console: Console, text: str, indent: int = 2, style: str = "") -> None:
    """Wrapped at words, where a line may be as long as the console is wide."""
    first, rest = " " * indent, " " * (indent + 2)
    for line in text.splitlines():
        filled = textwrap.fill(
            line,
            console.width,
            initial_indent=first,
            subsequent_indent=rest,
            break_long_words=False,
            break_on_hyphens=False,
        )
        console.print(escape(filled), style=style, highlight=False, soft_wrap=True)


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, no_wrap=True)
    return table
