"""One level of load: a fixed number of clients, each sending its next request when its last one ended."""

import asyncio
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Protocol

from mii.bench.measure import Record
from mii.bench.workload import Job
from mii.openai_client import RequestFailed

BACK_OFF = 0.2  # seconds that a client waits after an error, so that a dead server is not hammered

OnDone = Callable[[Record], None]


class Driver(Protocol):
    """How one API is asked."""

    async def send(self, job: Job, record: Record) -> None:
        """Fills the record's arrivals and token counts. Raises RequestFailed."""


async def run_level(
    driver: Driver,
    jobs: Iterator[Job],
    *,
    clients: int,
    requests: int | None = None,
    duration: float | None = None,
    on_done: OnDone | None = None,
) -> list[Record]:
    """Ends after `requests` in all, or when `duration` seconds have passed and what then runs has ended.

    `on_done` is called on the event loop after each request. Cancelling it cancels the open requests.
    """
    deadline = None if duration is None else time.perf_counter() + duration
    shared = islice(jobs, requests)
    records: list[Record] = []

    async def client() -> None:
        for job in shared:
            record = await _measured(driver, job)
            records.append(record)
            if on_done is not None:
                on_done(record)
            if deadline is not None and time.perf_counter() >= deadline:
                return
            if record.error is not None:
                await asyncio.sleep(BACK_OFF)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    return records


async def _measured(driver: Driver, job: Job) -> Record:
    record = Record(started=time.perf_counter())
    try:
        await driver.send(job, record)
    except RequestFailed as error:
        record.error = str(error)
    record.ended = time.perf_counter()
    return record
