"""One model server's state: its engine, its phase from loading to dead, and how many requests are open."""

import asyncio
import enum
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mii.core import Health
from mii.models.source import shown
from mii.options import ModelLimits
from mii.server.backend import Backend
from mii.server.encoder import PromptEncoder
from mii.server.errors import ApiError, Unavailable
from mii.server.metrics import Metrics
from mii_spec.launch import ServerArgs

LONGEST_NAME = 200  # characters of an unknown name that an error repeats


class Phase(enum.Enum):
    LOADING = "the model is being loaded"
    READY = "ready"
    DRAINING = "the server is shutting down"
    DEAD = "the engine has died"


class Service:
    """Shared by HTTP and gRPC; everything here runs on the event loop."""

    def __init__(self, args: ServerArgs) -> None:
        self.args = args
        model = shown(args.model)
        self.model_name = args.served_model_name or model
        self.deployment_name = args.deployment_name or f"{model}-mii-deployment"
        self.metrics = Metrics(self.model_name)
        self.created = int(time.time())
        self.phase = Phase.LOADING
        self.stop_requested = asyncio.Event()
        self._reason = ""
        self._backend: Backend | None = None
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def attach(self, backend: Backend) -> None:
        """The engine is loaded: be ready."""
        backend.listeners.append(self.metrics)
        self._backend = backend
        info = backend.info
        self.limits = ModelLimits.of(info, backend.tokenizer.eos_token_ids)
        self.prompts = PromptEncoder(backend)
        self.fingerprint = _fingerprint(info.model, info.revision, info.dtype, str(info.tensor_parallel))
        self.phase = Phase.READY

    def drain(self) -> None:
        """Admit nothing more."""
        if self.phase is not Phase.DEAD:
            self.phase = Phase.DRAINING

    def fail(self, reason: str) -> None:
        """The engine is gone for good."""
        self.phase, self._reason = Phase.DEAD, reason

    @property
    def health(self) -> Health:
        """Not alive once the engine died or stalled; loading and draining are alive."""
        if self.phase is Phase.DEAD:
            return Health(alive=False, reason=self._reason)
        return self._backend.health if self._backend else Health(alive=True)

    @property
    def ready(self) -> bool:
        return self.phase is Phase.READY and self.health.alive

    def backend(self) -> Backend:
        """The engine, if requests may use it now; else raises Unavailable with the reason."""
        if not self.health.alive:
            raise Unavailable(f"{Phase.DEAD.value}: {self.health.reason}")
        if self.phase is not Phase.READY or self._backend is None:
            raise Unavailable(self.phase.value)
        return self._backend

    @contextmanager
    def admit(self) -> Iterator[Backend]:
        """The engine, for one request that drain waits for."""
        backend = self.backend()
        self._open += 1
        self._idle.clear()
        try:
            yield backend
        finally:
            self._open -= 1
            if self._open == 0:
                self._idle.set()

    @property
    def num_open(self) -> int:
        return self._open

    async def wait_idle(self) -> None:
        """Returns when no admitted request is open."""
        await self._idle.wait()

    def check_model(self, name: str | None) -> None:
        """Raises a 404 unless `name` is the model served here (absent means it)."""
        if name is not None and name != self.model_name:
            raise ApiError(
                404,
                f"the model '{name[:LONGEST_NAME]}' is not served here; there is '{self.model_name}'",
                param="model",
                code="model_not_found",
            )


def _fingerprint(*parts: str) -> str:
    return "fp_" + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:10]
