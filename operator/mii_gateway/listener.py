"""A listening HTTP port."""

import asyncio
import socket
import ssl

from aiohttp import web

HEADER_TIMEOUT = 10.0  # seconds from connecting to a first complete request head
KEEPALIVE_TIMEOUT = 75.0  # seconds from an answer to the next complete request head
BACKLOG = 1024
STOP_GRACE = 1.0  # seconds that handlers get to notice that they are cancelled


class Listener:
    """Serves one application on one port, and closes connections that stay silent."""

    def __init__(self, app: web.Application, *, header_timeout: float = HEADER_TIMEOUT) -> None:
        self._header_timeout = header_timeout
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,
            auto_decompress=False,
            keepalive_timeout=KEEPALIVE_TIMEOUT,
            shutdown_timeout=STOP_GRACE,
        )
        self._listening: asyncio.Server | None = None

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Listens; returns the port. Raises OSError if it is taken."""
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(self._accept, host, port, backlog=BACKLOG, ssl=tls)
        sock: socket.socket = self._listening.sockets[0]
        return int(sock.getsockname()[1])

    @property
    def connections(self) -> int:
        """How many clients are connected, whether or not they are asking for something."""
        return len(self._runner.server.connections) if self._runner.server else 0

    def close(self) -> None:
        """Accepts no more connections; those that are there go on."""
        if self._listening is not None:
            self._listening.close()

    async def stop(self) -> None:
        """Stops listening and ends what is left."""
        self.close()
        await self._runner.cleanup()

    def _accept(self) -> asyncio.BaseProtocol:
        server = self._runner.server
        assert server is not None, "start() sets it up before it listens"
        connection = server()
        asyncio.get_running_loop().call_later(self._header_timeout, _close_if_silent, connection)
        return connection


def _close_if_silent(connection: web.RequestHandler) -> None:
    """aiohttp bounds the time between requests, but not the time to the first."""
    if not connection._request_count:
        connection.force_close()
