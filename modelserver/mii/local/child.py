"""One process, kept running: start, follow its health, restart with backoff, stop.

starting ──> ready <──> unready     any of them ── exit, or not alive ──> died ──backoff──> starting
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from mii.errors import DeploymentFailed
from mii.local.backoff import Backoff
from mii.local.health import Probe, Vitals
from mii.local.plan import ChildSpec
from mii.local.process import Process, describe_exit

State = Literal["starting", "ready", "unready", "died", "stopping", "stopped"]


class Event(msgspec.Struct, frozen=True):
    """A child has changed its state; `detail` says why, and may have several lines."""

    child: str
    state: State
    detail: str = ""


@dataclass(frozen=True)
class Timing:
    """How patient the supervisor is. Seconds, except where a count is meant."""

    starting_interval: float = 0.2  # between health checks until it is ready
    steady_interval: float = 1.0  # and from then on
    probe_timeout: float = 5.0
    startup: float = 1800.0  # until it must be ready
    drain: float = 125.0  # between SIGTERM and SIGKILL, once it has been ready
    stop: float = 10.0  # the same before
    liveness_failures: int = 3  # in a row, then it is killed and restarted
    load_attempts: int = 3  # runs in a row that may end before the first readiness
    backoff_first: float = 0.2
    backoff_last: float = 10.0
    backoff_reset: float = 30.0  # of health


class Child:
    """Keeps one program running until it is told to stop."""

    def __init__(
        self, spec: ChildSpec, *, probe: Probe, log: Path, timing: Timing, emit: Callable[[Event], None]
    ) -> None:
        self.spec = spec
        self.log = log
        self._probe = probe
        self._timing = timing
        self._emit = emit
        self._state: State = "stopped"
        self._process: Process | None = None
        self._stopping = asyncio.Event()
        self._gone = asyncio.Event()
        self._was_ready = False
        self._failed_loads = 0
        self._backoff = Backoff(timing.backoff_first, timing.backoff_last, timing.backoff_reset)

    async def run(self) -> None:
        """Returns when the process is gone after `stop` or `kill`, or of itself if the spec lets it end.

        Raises DeploymentFailed when it ends `load_attempts` times in a row without ever having been ready.
        """
        while not self._stopping.is_set():
            code, healthy, why = await self._run_once()
            if code == 0 and self.spec.may_end:
                break
            if not self._stopping.is_set():
                await self._pause(healthy, why)
        self._set("stopped")

    async def stop(self) -> None:
        """SIGTERM, a grace period in which it drains, then SIGKILL; returns when it is gone."""
        self._stopping.set()
        process = self._process
        if process is None:
            return
        self._set("stopping")
        process.terminate()
        try:
            await asyncio.wait_for(
                self._gone.wait(), self._timing.drain if self._was_ready else self._timing.stop
            )
        except TimeoutError:
            process.kill()
            await self._gone.wait()

    def kill(self) -> None:
        """Ends the process at once and for good."""
        self._stopping.set()
        if self._process is not None:
            self._process.kill()

    async def _run_once(self) -> tuple[int, float, str]:
        """Runs the program to its end: exit code, how many seconds it was healthy, and why it ended."""
        self._set("starting")
        started = time.monotonic()
        vitals = Vitals(startup=self._timing.startup, failures_allowed=self._timing.liveness_failures)
        process = await Process.start(self.spec.argv, env=self.spec.env, log=self.log)
        self._process = process
        self._gone.clear()
        if self._stopping.is_set():
            process.kill()  # told to stop while it was being started
        follower = asyncio.create_task(self._follow(process, vitals, started))
        code = await process.wait()
        follower.cancel()
        await asyncio.gather(follower, return_exceptions=True)
        self._process = None
        self._gone.set()
        why = "\n  ".join([vitals.verdict or describe_exit(code), *process.last_words()])
        return code, vitals.healthy_seconds(time.monotonic() - started), why

    async def _follow(self, process: Process, vitals: Vitals, started: float) -> None:
        """Checks the health of a run until it must be killed."""
        while not vitals.verdict:
            vitals.observe(*await self._probe.check(), now=time.monotonic() - started)
            self._report(vitals)
            ready = self._timing.steady_interval if vitals.ready else self._timing.starting_interval
            await asyncio.sleep(ready)
        process.kill()

    def _report(self, vitals: Vitals) -> None:
        self._was_ready = self._was_ready or vitals.ready
        if self._stopping.is_set():
            return
        if vitals.ready:
            self._set("ready")
        elif self._state == "ready":
            self._set("unready", vitals.reason)

    async def _pause(self, healthy_seconds: float, why: str) -> None:
        """After a death: gives up, or waits before the next start."""
        if not self._was_ready:
            self._failed_loads += 1
            if self._failed_loads >= self._timing.load_attempts:
                self._set("died", why)
                raise DeploymentFailed(f"{self.spec.name} cannot start: {why}")
        delay = self._backoff.after(healthy_seconds)
        self._set("died", f"{why}\nrestarting in {delay:g} s")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), delay)

    def _set(self, state: State, detail: str = "") -> None:
        if state != self._state:
            self._state = state
            self._emit(Event(self.spec.name, state, detail))
