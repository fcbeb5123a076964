"""What the kernel takes to carry a token over TCP on this machine: the floor under the gateway's figures."""

import contextlib
import os
import socket
import time
from typing import Any

from fake_replica import HOST

CONNECTIONS = 500  # as many cold sockets as a busy gateway has
ROUNDS = 40
TOKEN = b"x" * 42  # as long as one of the fake replica's


def measure() -> dict[str, Any]:
    """Processor time of one send, which delivers, and of one receive."""
    with contextlib.ExitStack() as stack:
        ends = [_connect(stack) for _ in range(CONNECTIONS)]
        sending = receiving = 0.0
        for _ in range(ROUNDS):
            start = time.thread_time()
            for here, _ in ends:
                os.write(here, TOKEN)
            middle = time.thread_time()
            for _, there in ends:
                os.read(there, 65536)
            sending += middle - start
            receiving += time.thread_time() - middle
    count = CONNECTIONS * ROUNDS
    return {
        "measure": "loopback",
        "send_us": round(sending / count * 1e6, 2),
        "receive_us": round(receiving / count * 1e6, 2),
    }


def _connect(stack: contextlib.ExitStack) -> tuple[int, int]:
    """The two ends' descriptors."""
    listener = stack.enter_context(socket.create_server((HOST, 0)))
    client = stack.enter_context(socket.create_connection(listener.getsockname()))
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server = stack.enter_context(listener.accept()[0])
    return client.fileno(), server.fileno()
