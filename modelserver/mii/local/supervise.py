"""Runs a prepared plan in this process: recorded while it runs, ended by a signal or by its owner."""

import asyncio
import os
import signal
from typing import Protocol

from mii.local import state
from mii.local.child import Event, Timing
from mii.local.deployment import Deployment
from mii.local.plan import LocalPlan
from mii.local.state import Record

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class View(Protocol):
    """Who is told how the deployment is."""

    def event(self, event: Event) -> None: ...

    def ready(self) -> None:
        """All processes are ready, for the first time."""


def supervise(plan: LocalPlan, view: View, timing: Timing | None = None) -> None:
    """Returns when the deployment has ended and all of its processes are gone.

    SIGINT, SIGTERM and SIGHUP end it in order; a second one at once. `state.prepare` comes before.
    Raises DeploymentFailed when it cannot start.
    """
    state.save(_record(plan))
    try:
        asyncio.run(_supervise(plan, view, timing or patience(plan)))
    finally:
        state.forget(plan.name)


def patience(plan: LocalPlan) -> Timing:
    """The plan's own times; the supervisor waits a little longer than the children's own drain."""
    return Timing(
        startup=plan.startup_timeout, drain=plan.drain_timeout + 5, load_attempts=plan.load_attempts
    )


async def _supervise(plan: LocalPlan, view: View, timing: Timing) -> None:
    deployment = Deployment(plan, logs=state.log_dir(plan.name), timing=timing, on_event=view.event)
    loop = asyncio.get_running_loop()
    for number in _ENDING:
        loop.add_signal_handler(number, deployment.stop)
    announcer = asyncio.create_task(_announce(deployment, view))
    try:
        await deployment.run()
    finally:
        announcer.cancel()


async def _announce(deployment: Deployment, view: View) -> None:
    await deployment.ready.wait()
    view.ready()


def _record(plan: LocalPlan) -> Record:
    pid = os.getpid()
    return Record(
        name=plan.name,
        model=plan.model,
        pid=pid,
        started=state.process_start(pid) or "",
        host=plan.gateway.host,
        http_port=plan.gateway.ports.http,
        grpc_port=plan.gateway.ports.grpc,
        replicas=len(plan.replicas),
        drain_timeout=plan.drain_timeout,
    )
