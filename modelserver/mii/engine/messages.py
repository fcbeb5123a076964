"""What the API process and the engine process say to each other, as msgpack over private ZeroMQ sockets."""

import msgspec

from mii.config import EngineConfig
from mii.core import AbortRequest, EngineInfo, EngineRequest, StepOutputs


class Startup(msgspec.Struct, frozen=True):
    """The first words to a new engine process, one line of JSON on its standard input."""

    config: EngineConfig
    inbox: str  # address to receive requests at
    outbox: str  # address to send results to


class Failed(msgspec.Struct, tag="failed"):
    """The engine's last words."""

    error: str


ToEngine = EngineRequest | AbortRequest
FromEngine = EngineInfo | StepOutputs | Failed
