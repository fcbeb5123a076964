"""Rank 0's hold on the other ranks of its model: processes of ours, started, told what to do, watched, ended.

rank 0 ──Turn (ZeroMQ, one socket a rank)──> rank i
       ──standard input, open while rank 0 lives
       <──FromRank (pipe, ends when rank i does)──
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec
import zmq

from mii.config import EngineConfig
from mii.engine.link import ending
from mii.engine.messages import Failed, FromRank, RankStartup, Turn
from mii.errors import EngineDead, MIIError, ModelLoadError

_BLAME_SECONDS = 1.0  # a lost connection comes before the news of who has lost it
_SEND_MS = 1000  # nothing keeps a turn back but that its receiver is gone
_END_SECONDS = 5.0


class Followers:
    """Ranks 1, 2… of `config.tensor_parallel`. Once one is lost, none is of use any more."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.directory = Path(tempfile.mkdtemp(prefix="mii-ranks-"))  # readable by its owner alone
        self._on_lost: Callable[[str], None] = lambda _: None
        self._encoder = msgspec.msgpack.Encoder()
        self._context = zmq.Context()
        self._changed = threading.Condition()
        self._num_loaded = 0
        self._lost = ""
        self._closing = False
        self._sockets: list[zmq.Socket[bytes]] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._watchers: list[threading.Thread] = []

    def start(self, config: EngineConfig, model: Path, *, on_lost: Callable[[str], None]) -> None:
        """They load `model`, a path on this machine. `on_lost` is called once, by a thread that watches, with
        what happened to which rank."""
        self._on_lost = on_lost
        local = msgspec.structs.replace(config, model=str(model), revision="main")
        for rank in range(1, self.size):
            self._start(rank, local)

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    def wait_loaded(self) -> None:
        """Returns once all have their weights. Raises ModelLoadError if one has ended instead."""
        with self._changed:
            self._changed.wait_for(lambda: self._lost or self._num_loaded == self.size - 1)
        if self._lost:
            raise ModelLoadError(self._lost)

    def send(self, turn: Turn) -> None:
        """Returns at once. Raises EngineDead or zmq.Again if a rank is lost."""
        self.refuse_lost()
        message = self._encoder.encode(turn)
        for socket in self._sockets:
            socket.send(message)

    def refuse_lost(self) -> None:
        """Raises EngineDead if a rank is lost."""
        if self._lost:
            raise EngineDead(self._lost)

    def explained(self, error: BaseException, kind: type[MIIError]) -> BaseException:
        """What is behind an error of rank 0: the loss of a rank, as `kind`, if there is one; else `error`."""
        if isinstance(error, MIIError) or not isinstance(error, Exception):
            return error
        with self._changed:
            self._changed.wait_for(lambda: self._lost, timeout=_BLAME_SECONDS)
        return kind(self._lost) if self._lost else error

    def give_up(self, reason: str) -> None:
        """Rank 0 is the one that has left the others' step."""
        self._lost = self._lost or reason

    def close(self) -> None:
        """Ends them; returns when they are gone."""
        self._closing = True
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._processes:
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for watcher in self._watchers:
            watcher.join()
        self._context.destroy(linger=0)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _start(self, rank: int, config: EngineConfig) -> None:
        inbox = f"ipc://{self.directory / f'rank-{rank}'}"
        socket = self._context.socket(zmq.PUSH)
        socket.set_hwm(0)
        socket.setsockopt(zmq.SNDTIMEO, _SEND_MS)
        socket.bind(inbox)
        self._sockets.append(socket)
        reports, end = os.pipe()
        process = subprocess.Popen(
            [sys.executable, "-m", "mii.engine.follower"],
            stdin=subprocess.PIPE,
            bufsize=0,
            pass_fds=(end,),
            start_new_session=True,  # a Ctrl-C in the terminal is for rank 0
        )
        os.close(end)
        self._processes.append(process)
        watcher = threading.Thread(
            target=self._watch, args=(rank, process, os.fdopen(reports, "rb")), daemon=True
        )
        self._watchers.append(watcher)
        watcher.start()
        startup = RankStartup(
            config=config, rank=rank, directory=str(self.directory), inbox=inbox, reports=end
        )
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # gone already: the watcher says how
            process.stdin.write(msgspec.json.encode(startup) + b"\n")

    def _watch(self, rank: int, process: "subprocess.Popen[bytes]", reports: BinaryIO) -> None:
        words = ""
        with reports:
            for line in reports:
                match msgspec.json.decode(line, type=FromRank):
                    case Failed(error):
                        words = f": {error}"
                    case _:
                        self._note_loaded()
        words = words or f" {ending(process.wait())}"
        if not self._closing:
            self._note_lost(f"rank {rank} of {self.size}{words}")

    def _note_loaded(self) -> None:
        with self._changed:
            self._num_loaded += 1
            self._changed.notify_all()

    def _note_lost(self, reason: str) -> None:
        """The first loss is the one that counts; the others follow from it."""
        with self._changed:
            if self._lost:
                return
            self._lost = reason
            self._changed.notify_all()
        shutil.rmtree(self.directory, ignore_errors=True)
        self._on_lost(reason)
