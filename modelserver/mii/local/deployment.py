"""A deployment on this machine: its replicas and its gateway as child processes."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import aiohttp

from mii.local.child import Child, Event, Timing
from mii.local.health import Probe
from mii.local.plan import ChildSpec, LocalPlan


class Deployment:
    """Runs a plan: `run` until `stop`."""

    def __init__(
        self, plan: LocalPlan, *, logs: Path, timing: Timing, on_event: Callable[[Event], None]
    ) -> None:
        self.plan = plan
        self.ready = asyncio.Event()  # every process has been ready at the same time
        self._logs = logs
        self._timing = timing
        self._on_event = on_event
        self._states: dict[str, str] = {}
        self._stopping = asyncio.Event()
        self._children: list[Child] = []

    def stop(self) -> None:
        """Begins the orderly end: the gateway drains, then the replicas. A second call ends all at once."""
        if self._stopping.is_set():
            for child in self._children:
                child.kill()
        self._stopping.set()

    async def run(self) -> None:
        """Returns when all processes are gone after `stop`.

        Raises DeploymentFailed, with no process left, when one of them fails to load again and again.
        """
        async with aiohttp.ClientSession() as session:
            gateway = self._child(session, self.plan.gateway)
            replicas = [self._child(session, spec) for spec in self.plan.replicas]
            self._children = [gateway, *replicas]
            runs = [asyncio.create_task(child.run()) for child in self._children]
            stopping = asyncio.create_task(self._stopping.wait())
            try:
                await asyncio.wait([stopping, *runs], return_when=asyncio.FIRST_COMPLETED)
            finally:
                stopping.cancel()
                await self._end(gateway, replicas, runs)
        for run in runs:
            run.result()

    async def _end(self, gateway: Child, replicas: list[Child], runs: list[asyncio.Task[None]]) -> None:
        self._stopping.set()
        await gateway.stop()
        await asyncio.gather(*(replica.stop() for replica in replicas))
        await asyncio.wait(runs)

    def _child(self, session: aiohttp.ClientSession, spec: ChildSpec) -> Child:
        probe = Probe(session, spec, timeout=self._timing.probe_timeout)
        log = self._logs / f"{spec.name}.log"
        return Child(spec, probe=probe, log=log, timing=self._timing, emit=self._observe)

    def _observe(self, event: Event) -> None:
        self._states[event.child] = event.state
        self._on_event(event)
        if [*self._states.values()] == ["ready"] * len(self._children):
            self.ready.set()
