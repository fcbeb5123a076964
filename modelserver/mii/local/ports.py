"""TCP ports of this machine."""

import socket
from contextlib import ExitStack

from mii.errors import MIIError

HIGHEST = 65535


def free(count: int, host: str = "127.0.0.1") -> list[int]:
    """`count` different ports that are free now. They are held together while they are drawn."""
    with ExitStack() as held:
        return [_bound(held, host, 0) for _ in range(count)]


def require(host: str, ports: dict[str, int]) -> None:
    """Raises MIIError naming the option whose port is taken or none. `ports` maps option names to ports."""
    with ExitStack() as held:
        for option, port in ports.items():
            if not 0 < port <= HIGHEST:  # the system would take it modulo 65536
                raise MIIError(f"{option} is {port}: a port is a number from 1 to {HIGHEST}")
            try:
                _bound(held, host, port)
            except OSError as error:
                reason = error.strerror or error
                raise MIIError(
                    f"cannot listen on {host}:{port} ({reason}): choose another {option}"
                ) from None


def _bound(held: ExitStack, host: str, port: int) -> int:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = held.enter_context(socket.socket(family, kind, protocol))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT is no obstacle
    listener.bind(address)
    # A second bound socket with SO_REUSEADDR is allowed until one of them listens.
    listener.listen(1)
    number: int = listener.getsockname()[1]
    return number
