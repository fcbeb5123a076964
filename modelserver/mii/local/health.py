"""How a process is: GET /health/live and /health/ready, and what a row of answers amounts to."""

from dataclasses import dataclass

import aiohttp

from mii.local.plan import ChildSpec

_LONGEST_REASON = 500


@dataclass(frozen=True)
class Answer:
    """One health check; `reason` says why it is not ok."""

    ok: bool
    reason: str = ""


class Probe:
    """Health checks of one process over a shared session."""

    def __init__(self, session: aiohttp.ClientSession, spec: ChildSpec, *, timeout: float) -> None:
        self._session = session
        self._base = f"http://{spec.host}:{spec.ports.probe}/health"
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._seconds = timeout

    async def check(self) -> tuple[Answer, Answer]:
        """Liveness and readiness; what is not alive is not ready either."""
        live = await self._get("live")
        return live, await self._get("ready") if live.ok else live

    async def _get(self, what: str) -> Answer:
        try:
            async with self._session.get(f"{self._base}/{what}", timeout=self._timeout) as response:
                text = (await response.text()).strip()[:_LONGEST_REASON]
                return Answer(response.status == 200, f"/health/{what} says {response.status}: {text}")
        except TimeoutError:
            return Answer(False, f"/health/{what} did not answer within {self._seconds:g} s")
        except aiohttp.ClientError as error:
            return Answer(False, f"/health/{what}: {error}")


class Vitals:
    """What the health checks of one run of a process amount to. Pure: times are seconds since its start."""

    def __init__(self, *, startup: float, failures_allowed: int) -> None:
        self._startup = startup
        self._failures_left = self._failures_allowed = failures_allowed
        self._answered = False  # liveness counts from its first success: before, nothing may listen yet
        self.ready = False
        self.ready_since: float | None = None
        self.reason = ""  # why it is not ready
        self.verdict = ""  # why it must be killed; empty while it need not

    def observe(self, live: Answer, ready: Answer, now: float) -> None:
        """Takes in one check."""
        self.ready, self.reason = ready.ok, "" if ready.ok else ready.reason
        if ready.ok and self.ready_since is None:
            self.ready_since = now
        self._count(live)
        if not self._failures_left:
            self.verdict = f"not alive, {self._failures_allowed} times in a row: {live.reason}"
        elif self.ready_since is None and now > self._startup:
            self.verdict = f"not ready {self._startup:g} s after its start: {ready.reason}"

    def healthy_seconds(self, now: float) -> float:
        """Since it first became ready."""
        return 0.0 if self.ready_since is None else now - self.ready_since

    def _count(self, live: Answer) -> None:
        if live.ok:
            self._answered, self._failures_left = True, self._failures_allowed
        elif self._answered:
            self._failures_left -= 1
