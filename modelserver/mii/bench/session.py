"""One run of `mii bench`: the levels one after another, with progress; then the reports."""

import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from mii.bench import report
from mii.bench.drivers import TAKES_TOKEN_IDS, Endpoint, open_endpoint
from mii.bench.hardware import hardware
from mii.bench.load import run_level
from mii.bench.measure import Record, Summary, summarize
from mii.bench.options import Bench
from mii.bench.workload import Job, jobs, ordinary_ids

WORDS_SHARE = 0.8  # of the model's length that prompts of words may fill, as their tokens are only estimated


class Session:
    """Levels that have ended are reported even if a later one is interrupted."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.log = Console(stderr=True)
        self.summaries: list[Summary] = []
        self.context: dict[str, Any] = {}

    def run(self) -> int:
        """Returns 1 if a request failed, else 0. Raises RequestFailed if the server cannot be reached."""
        try:
            uvloop.run(self._measure())
        finally:
            if self.summaries:
                self._report()
        return int(any(summary.errors for summary in self.summaries))

    async def _measure(self) -> None:
        async with open_endpoint(self.bench.target) as endpoint:
            self.context = context(self.bench, endpoint)
            with _progress(self.log) as progress:
                for clients in self.bench.clients:
                    self.summaries.append(await self._level(endpoint, clients, progress))

    async def _level(self, endpoint: Endpoint, clients: int, progress: Progress) -> Summary:
        bench = self.bench
        total = bench.requests_at(clients)
        bar = LevelBar(progress, clients, total)
        warm_up = self._jobs(endpoint, f"{clients}/warmup")
        await run_level(endpoint.driver, warm_up, clients=clients, requests=bench.warmup)
        bar.start()
        cpu, wall = time.process_time(), time.perf_counter()
        records = await run_level(
            endpoint.driver,
            self._jobs(endpoint, str(clients)),
            clients=clients,
            requests=total,
            duration=bench.duration,
            on_done=bar.advance,
        )
        used = (time.process_time() - cpu) / (time.perf_counter() - wall)
        return summarize(records, clients=clients, client_cpu=used)

    def _jobs(self, endpoint: Endpoint, level: str) -> Iterator[Job]:
        vocabulary, limit = vocabulary_of(self.bench, endpoint), endpoint.info.get("max_model_len")
        if limit and vocabulary is None:
            limit = int(limit * WORDS_SHARE)
        seed = f"{self.bench.seed}/{self.bench.workload}/{level}"
        return jobs(self.bench.workload, seed=seed, vocabulary=vocabulary, limit=limit)

    def _report(self) -> None:
        bench = self.bench
        lines = [report.json_line(summary, self.context) for summary in self.summaries]
        name = "/".join(self.context["model"].split("/")[-2:])  # of a path, what tells it apart
        title = f"{name or bench.target.url} · {bench.workload} tokens · {bench.target.api}"
        if bench.jsonl == "-":
            print("\n".join(lines), flush=True)
        else:
            Console(highlight=False).print(report.table(self.summaries, title))
        if bench.jsonl and bench.jsonl != "-":
            with Path(bench.jsonl).open("a") as file:
                file.writelines(line + "\n" for line in lines)
        if bench.plot:
            report.plot(self.summaries, bench.plot, title)
        for note in report.notes(self.summaries):
            self.log.print(f"note: {note}", style="yellow", markup=False, highlight=False)


class LevelBar:
    """One level's line of progress: requests ended, and output tokens/s so far."""

    def __init__(self, progress: Progress, clients: int, total: int | None) -> None:
        self._progress = progress
        self._tokens = 0
        self._started = time.perf_counter()
        self._task: TaskID = progress.add_task(f"{clients} clients", total=total, note="warming up")

    def start(self) -> None:
        self._started = time.perf_counter()
        self._progress.update(self._task, note="")

    def advance(self, record: Record) -> None:
        self._tokens += record.new_tokens
        rate = self._tokens / (time.perf_counter() - self._started)
        self._progress.update(self._task, advance=1, note=f"{rate:.0f} tokens/s")


def vocabulary_of(bench: Bench, endpoint: Endpoint) -> range | None:
    """Ids to draw prompts from, where the API takes ids and the vocabulary's size is known."""
    size = bench.vocab or endpoint.info.get("vocab_size")
    return ordinary_ids(size) if size and bench.target.api in TAKES_TOKEN_IDS else None


def context(bench: Bench, endpoint: Endpoint) -> dict[str, Any]:
    """What makes a line of JSON reproducible: what was asked, of whom, from where, when."""
    ids = vocabulary_of(bench, endpoint) is not None
    return {
        "bench": "clients",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "url": bench.target.url,
        "api": bench.target.api,
        "model": endpoint.model,
        "server": endpoint.info or None,
        "hardware": hardware(),  # of the client, which on one machine is the server's too
        "workload": {
            **asdict(bench.workload),
            "prompts": "token ids" if ids else "words",
            "seed": bench.seed,
            "greedy": bench.target.greedy,
            "exact": bench.target.exact,
        },
    }


def _progress(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f} requests"),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
