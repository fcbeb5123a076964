"""The engine process as its parent holds it: started, spoken to over two private sockets, ended."""

import asyncio
import signal
import sys
import tempfile
from asyncio.subprocess import Process
from pathlib import Path

import msgspec
import zmq
import zmq.asyncio

from mii.config import EngineConfig
from mii.core import EngineInfo
from mii.engine.messages import Failed, FromEngine, Startup
from mii.errors import ModelLoadError


class EngineLink:
    """The process and the two sockets to it."""

    def __init__(self, directory: "tempfile.TemporaryDirectory[str]") -> None:
        self._directory = directory
        self._context = zmq.asyncio.Context()
        self._outbox = self._context.socket(zmq.PUSH)
        self._inbox = self._context.socket(zmq.PULL)
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(FromEngine)
        self.process: Process | None = None

    @classmethod
    async def open(cls, config: EngineConfig) -> "EngineLink":
        # The directory is readable by its owner alone, and so are the sockets in it.
        link = cls(tempfile.TemporaryDirectory(prefix="mii-"))
        try:
            await link._start(config)
        except BaseException:
            await link.close()
            raise
        return link

    async def _start(self, config: EngineConfig) -> None:
        requests, results = (f"ipc://{Path(self._directory.name) / name}" for name in ("requests", "results"))
        self._outbox.bind(requests)
        self._inbox.bind(results)
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "mii.engine.process"),
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C in the terminal is for the server, which drains first
        )
        assert self.process.stdin is not None
        startup = Startup(config=config, inbox=requests, outbox=results)
        self.process.stdin.write(msgspec.json.encode(startup) + b"\n")

    async def ready(self) -> EngineInfo:
        """Waits until the model is loaded. Raises ModelLoadError with the engine's own words."""
        message = asyncio.ensure_future(self.receive())
        exited = asyncio.ensure_future(self.wait())
        await asyncio.wait((message, exited), return_when=asyncio.FIRST_COMPLETED)
        exited.cancel()
        if not message.done():  # perhaps its last words are still on their way
            await asyncio.wait((message,), timeout=0.5)
        if not message.done():
            message.cancel()
            raise ModelLoadError(f"the engine process {ending(await self.wait())} while loading")
        first = message.result()
        if isinstance(first, Failed):
            raise ModelLoadError(first.error)
        assert isinstance(first, EngineInfo), "an engine's first message says what it is"
        return first

    async def send(self, message: msgspec.Struct) -> None:
        await self._outbox.send(self._encoder.encode(message))

    async def receive(self) -> FromEngine:
        message: FromEngine = self._decoder.decode(await self._inbox.recv())
        return message

    async def wait(self) -> int:
        """Returns the exit code once the process has ended."""
        assert self.process is not None, "a link is open"
        return await self.process.wait()

    def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()

    async def close(self) -> None:
        self.kill()
        if self.process is not None:
            await self.process.wait()
        self._context.destroy(linger=0)
        self._directory.cleanup()


def ending(code: int | None) -> str:
    """How a process with this return code ended, in words."""
    if code is not None and code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
