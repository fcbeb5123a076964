"""How a deployment's life looks in a terminal: a live table until it is ready, lines from then on."""

import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from mii.local.child import Event
from mii.local.plan import LocalPlan
from mii.local.process import tail

_STYLES = {"ready": "green", "starting": "yellow", "unready": "yellow", "died": "red"}


class ForgivingConsole(Console):
    """Falls silent when nobody reads any more (`mii up | head`): the deployment goes on."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the rest of the process


class TerminalView:
    """Lines; on a terminal, a live table until the deployment is ready."""

    def __init__(self, console: Console, plan: LocalPlan, *, logs: Path) -> None:
        self._console = console
        self._plan = plan
        self._logs = logs
        self._began = time.monotonic()
        self._events: dict[str, Event] = {}
        self._live = Live(get_renderable=self._table, console=console, refresh_per_second=4)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def event(self, event: Event) -> None:
        self._events[event.child] = event
        if not self._live.is_started or event.detail:
            style = _STYLES.get(event.state, "dim")
            detail = f": {escape(event.detail)}" if event.detail else ""
            self._console.print(f"{event.child} [{style}]{event.state}[/]{detail}", highlight=False)

    def ready(self) -> None:
        self._live.stop()
        seconds = time.monotonic() - self._began
        self._console.print(f"[bold green]{escape(self._plan.name)} is ready[/] after {seconds:.1f} s")
        self._console.print(escape(usage(self._plan, self._logs)), highlight=False, soft_wrap=True)

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        children = (self._plan.gateway, *self._plan.replicas)
        widths = {"process": max(len(child.name) for child in children), "state": 8, "port": 5}
        for title, width in widths.items():
            table.add_column(title, no_wrap=True, min_width=width)
        table.add_column("last line", no_wrap=True, overflow="ellipsis", ratio=1)
        for child in children:
            event = self._events.get(child.name) or Event(child.name, "starting")
            state = f"[{_STYLES.get(event.state, 'dim')}]{event.state}[/]"
            table.add_row(child.name, state, str(child.ports.http), escape(self._last_line(event)))
        return table

    def _last_line(self, event: Event) -> str:
        log = self._logs / f"{event.child}.log"
        if event.state != "starting" or not log.exists():
            return ""
        return "".join(tail(log)[-1:])


def usage(plan: LocalPlan, logs: Path) -> str:
    """Where the deployment is and how to talk to it."""
    chat = f'{{"model": "{plan.served_name}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
    prompts = '{"prompts": ["Hello"], "max_new_tokens": 32}'
    header = "-H 'content-type: application/json'"
    return (
        f"  HTTP  {plan.http_url}\n"
        f"  gRPC  {plan.grpc_address}\n"
        f"  logs  {logs}\n\n"
        f"  curl {plan.http_url}/v1/chat/completions {header} -d '{chat}'\n"
        f"  curl {plan.http_url}/mii/{quote(plan.name, safe='')} {header} -d '{prompts}'\n"
    )
