"""What an engine's processes say to each other, as msgpack over private ZeroMQ sockets.

API process <═ToEngine, FromEngine═> rank 0 ──Turn──> rank 1, rank 2…
                                        <──FromRank──    (JSON lines over a pipe)
"""

import msgspec

from mii.config import EngineConfig
from mii.core import AbortRequest, EngineInfo, EngineRequest, StepOutputs


class Startup(msgspec.Struct, frozen=True):
    """The first words to a new engine process, one line of JSON on its standard input."""

    config: EngineConfig
    inbox: str  # address to receive requests at
    outbox: str  # address to send results to


class RankStartup(msgspec.Struct, frozen=True):
    """The same to a process of rank 1 or higher."""

    config: EngineConfig  # its model is a path on this machine
    rank: int
    directory: str  # of the sockets and the rendezvous
    inbox: str  # address to receive turns at
    reports: int  # file descriptor to report to


class Failed(msgspec.Struct, tag="failed"):
    """A process's last words."""

    error: str


class Loaded(msgspec.Struct, tag="loaded"):
    """The rank has its weights and is about to connect to the others."""


ToEngine = EngineRequest | AbortRequest
FromEngine = EngineInfo | StepOutputs | Failed
FromRank = Loaded | Failed


class Turn(msgspec.Struct, frozen=True, array_like=True):
    """One step of rank 0, for the others to repeat: what has come since the last one, then a step."""

    news: list[ToEngine]
    free_blocks: int  # before the step; ranks that disagree have diverged
