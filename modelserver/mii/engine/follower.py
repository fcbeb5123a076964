"""Rank 1 or higher of a model: `python -m mii.engine.follower`, started by rank 0 (see followers.py).

It repeats rank 0's steps: the same requests and aborts before each of them, the same scheduler, the same
sampler. So all ranks know every token, and nobody has to be told.
"""

import logging
import os
import sys
from pathlib import Path
from threading import Thread
from typing import BinaryIO, NoReturn

import msgspec
import zmq

from mii.core import AbortRequest
from mii.engine.device import choose_device
from mii.engine.engine import Engine
from mii.engine.loading import find_model
from mii.engine.messages import Failed, FromRank, Loaded, RankStartup, Turn
from mii.engine.parent import end_with_parent
from mii.engine.tensor_parallel import Communicator
from mii.errors import MIIError
from mii.models.shard import Shard

RENDEZVOUS = "rendezvous"  # file in the ranks' directory
_ORPHAN_SECONDS = 0.5

log = logging.getLogger(__name__)


def main() -> int:
    startup = msgspec.json.decode(sys.stdin.buffer.readline(), type=RankStartup)
    words = f"%(asctime)s %(levelname)s engine rank {startup.rank}: %(message)s"
    logging.basicConfig(level=logging.WARNING, format=words)  # rank 0 tells the rest for all
    orphaned = end_with_parent(Path(startup.directory))
    with os.fdopen(startup.reports, "wb", buffering=0) as reports:
        try:
            _follow(startup, reports)
        except MIIError as error:
            _report(reports, Failed(str(error)))
        except Exception as error:
            _fail(error, orphaned, reports)
    return 1


def _follow(startup: RankStartup, reports: BinaryIO) -> NoReturn:
    config = startup.config
    shard = Shard(startup.rank, config.tensor_parallel)
    ranks = Communicator(
        shard,
        choose_device(config.device, shard),
        Path(startup.directory) / RENDEZVOUS,
        before_connecting=lambda: _report(reports, Loaded()),
        peer_memory=config.peer_memory,
    )
    decoder = msgspec.msgpack.Decoder(Turn)
    with zmq.Context() as context, context.socket(zmq.PULL) as inbox:
        inbox.connect(startup.inbox)
        engine = Engine(config, found=find_model(config), ranks=ranks)
        while True:
            repeat(engine, decoder.decode(inbox.recv()))


def repeat(engine: Engine, turn: Turn) -> None:
    """One step of rank 0."""
    for message in turn.news:
        if isinstance(message, AbortRequest):
            engine.abort(message.request_id)
        else:
            engine.add(message)
    free = engine.scheduler.blocks.num_free
    assert free == turn.free_blocks, f"{free} KV blocks are free, on rank 0 {turn.free_blocks}"
    engine.step()


def _fail(error: Exception, orphaned: Thread, reports: BinaryIO) -> None:
    """If rank 0 is gone that is the reason, and we are about to go too. If another rank is, rank 0 is to hear
    of that first."""
    orphaned.join(_ORPHAN_SECONDS)
    log.error("this rank failed", exc_info=error)
    _report(reports, Failed(f"{type(error).__name__}: {error}"))


def _report(reports: BinaryIO, message: FromRank) -> None:
    reports.write(msgspec.json.encode(message) + b"\n")


if __name__ == "__main__":
    os._exit(main())  # at once: rank 0 waits for it, and there is nothing to tidy
