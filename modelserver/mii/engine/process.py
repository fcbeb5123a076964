"""The engine's own process: `python -m mii.engine.process`, started by AsyncEngine.

Its standard input brings one line of JSON (Startup) and then stays open for as long as the parent lives.
Requests come in and results go out over two private ZeroMQ sockets, one message per step.
"""

import logging
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import NoReturn

import msgspec
import zmq

from mii.core import AbortRequest, EngineOutput, StepOutputs
from mii.engine.engine import Engine
from mii.engine.leading import open_engine
from mii.engine.messages import Failed, FromEngine, Startup, ToEngine
from mii.engine.parent import end_with_parent
from mii.errors import InvalidRequest, MIIError
from mii.models.source import shown

HEARTBEAT_MS = 500  # how long an idle engine waits before it says that it lives
LAST_WORDS_MS = 2000  # how long the parent may take to hear them

log = logging.getLogger(__name__)


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s engine: %(message)s")
    startup = msgspec.json.decode(sys.stdin.buffer.readline(), type=Startup)
    log.info("loading %s", shown(startup.config.model))
    sockets = Path(startup.inbox.removeprefix("ipc://")).parent
    end_with_parent(sockets)
    context = zmq.Context()
    inbox, outbox = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    outbox.setsockopt(zmq.LINGER, LAST_WORDS_MS)
    inbox.connect(startup.inbox)
    outbox.connect(startup.outbox)
    loop = _Loop(inbox, outbox)
    try:
        loop.run(open_engine(startup.config, on_lost=partial(_give_up, startup.outbox)))
    except MIIError as error:
        loop.send(Failed(str(error)))
    except Exception as error:
        log.exception("the engine failed")
        loop.send(Failed(f"{type(error).__name__}: {error}"))
    outbox.close()
    context.term()
    return 1


class _Loop:
    """Receive, step, send."""

    def __init__(self, inbox: "zmq.Socket[bytes]", outbox: "zmq.Socket[bytes]") -> None:
        self._inbox = inbox
        self._outbox = outbox
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(ToEngine)

    def run(self, engine: Engine) -> NoReturn:
        self.send(engine.info)
        while True:
            refused = self._receive(engine)
            outputs = engine.step() if engine.has_work() else []
            stats = engine.stats()
            stats.sent_at = time.monotonic()
            self.send(StepOutputs(refused + outputs, stats))

    def send(self, message: FromEngine) -> None:
        self._outbox.send(self._encoder.encode(message))

    def _receive(self, engine: Engine) -> list[EngineOutput]:
        """Everything that has arrived; an idle engine waits for it. Returns the refusals."""
        refused: list[EngineOutput] = []
        if self._inbox.poll(0 if engine.has_work() else HEARTBEAT_MS):
            while True:
                try:
                    message = self._decoder.decode(self._inbox.recv(zmq.NOBLOCK))
                except zmq.Again:
                    break
                refused += self._handle(engine, message)
        return refused

    def _handle(self, engine: Engine, message: ToEngine) -> list[EngineOutput]:
        if isinstance(message, AbortRequest):
            engine.abort(message.request_id)
            return []
        try:
            engine.add(message)
        except InvalidRequest as error:
            return [EngineOutput(message.request_id, [], finish_reason="error", error=str(error))]
        return []


def _give_up(outbox: str, reason: str) -> NoReturn:
    """Ends this process from a thread, for its main one may be waiting for a rank that is gone."""
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.setsockopt(zmq.LINGER, LAST_WORDS_MS)
        socket.connect(outbox)
        socket.send(msgspec.msgpack.encode(Failed(reason)))
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
