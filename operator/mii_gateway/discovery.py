"""Where replicas are: a static list from the command line, or anything else that is a `Discovery`.

Kubernetes is one: see kube_discovery.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import SplitResult, urlsplit


@dataclass(frozen=True, order=True)
class Address:
    """A replica's two ports."""

    host: str
    http_port: int
    grpc_port: int
    pod: str = ""  # its name; another pod at the same address is another replica

    @property
    def name(self) -> str:
        return f"{_bracketed(self.host)}:{self.http_port}"

    @property
    def grpc_target(self) -> str:
        return f"{_bracketed(self.host)}:{self.grpc_port}"


class Discovery(Protocol):
    """Tells who the replicas are. Whether they are well is the health checks' business."""

    def watch(self) -> AsyncGenerator[frozenset[Address], None]:
        """Yields the whole set, first at once and then at every change. Never ends."""


class StaticDiscovery:
    """Replicas that never change."""

    def __init__(self, addresses: Iterable[Address]) -> None:
        self._addresses = frozenset(addresses)

    async def watch(self) -> AsyncGenerator[frozenset[Address], None]:
        yield self._addresses
        await asyncio.Event().wait()


def parse_replica(text: str) -> Address:
    """Reads HTTP_HOST:PORT/GRPC_PORT, where an IPv6 host stands in brackets. Raises ValueError."""
    try:
        parts = urlsplit(f"//{text}")
        grpc_port = int(parts.path.removeprefix("/"))
        if parts.hostname and parts.port and 0 < grpc_port < 65536 and _is_plain(parts):
            return Address(parts.hostname, parts.port, grpc_port)
    except ValueError:
        pass
    raise ValueError(
        f"--replica {text!r}: expected HTTP_HOST:PORT/GRPC_PORT, for example 127.0.0.1:8001/50051"
    )


def _is_plain(parts: SplitResult) -> bool:
    return not (parts.username or parts.password or parts.query or parts.fragment)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
