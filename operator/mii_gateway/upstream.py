"""One HTTP attempt on one replica, up to its first byte: what can still be retried."""

import asyncio
import io
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict
from yarl import URL

from mii_gateway.dispatch import ReplicaFailed
from mii_gateway.errors import replica_silent
from mii_gateway.record import Record
from mii_gateway.replicas import Replica

KEEPALIVE = 30.0  # seconds; shorter than a model server's, so that it is not the one to close
DNS_TTL = 10  # seconds
LARGE_BODY = 2**16  # bytes; larger ones are sent in pieces, not in one go that holds the loop up
# What the client library would add where the client sent none.
_AUTOMATIC = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")


@dataclass(frozen=True, kw_only=True)
class Outgoing:
    """A request as every attempt sends it."""

    method: str
    path: str  # as the client encoded it
    query: str
    headers: CIMultiDict[str]
    body: bytes

    def url(self, replica: Replica) -> URL:
        host, port = replica.address.host, replica.address.http_port
        return URL.build(
            scheme="http", host=host, port=port, path=self.path, query_string=self.query, encoded=True
        )

    def data(self) -> bytes | io.BytesIO | None:
        return io.BytesIO(self.body) if len(self.body) > LARGE_BODY else self.body or None


def new_session(connect_timeout: float) -> aiohttp.ClientSession:
    """Pooled connections that hide nothing: no cookies, no redirects, no decoding, no retries."""
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE, ttl_dns_cache=DNS_TTL),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, connect=connect_timeout),
        auto_decompress=False,
        skip_auto_headers=_AUTOMATIC,
    )
    session._retry_connection = False  # it has no public switch, and would send a GET twice without a word
    return session


class HttpUpstream:
    def __init__(self, session: aiohttp.ClientSession, idle_timeout: float) -> None:
        self._session = session
        self._idle_timeout = idle_timeout

    @asynccontextmanager
    async def open(
        self, replica: Replica, outgoing: Outgoing, record: Record
    ) -> AsyncIterator[tuple[aiohttp.ClientResponse, bytes]]:
        """The response and the first piece of its body (empty if it has none).

        A stream whose headers are out but whose first byte is not can still move to another replica, so
        nothing is told to the client before. Raises ReplicaFailed, or Refusal after the idle timeout. Leaving
        before the end closes the connection, which is what tells the replica to stop.
        """
        response: aiohttp.ClientResponse | None = None
        try:
            with record.upstream(), self._failures(replica):
                async with asyncio.timeout(self._idle_timeout):
                    response = await self._send(replica, outgoing)
                    first = await response.content.readany()
            yield response, first
        finally:
            if response is not None:
                response.close()

    async def _send(self, replica: Replica, outgoing: Outgoing) -> aiohttp.ClientResponse:
        response = await self._session.request(
            outgoing.method,
            outgoing.url(replica),
            data=outgoing.data(),
            headers=outgoing.headers,
            allow_redirects=False,
        )
        if response.status == 503:
            response.close()
            raise ReplicaFailed("refused")
        return response

    @contextmanager
    def _failures(self, replica: Replica) -> Iterator[None]:
        try:
            yield
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise ReplicaFailed("connect") from error
        except TimeoutError as error:
            raise replica_silent(replica.name, self._idle_timeout) from error
        except (aiohttp.ClientError, HttpProcessingError, OSError) as error:
            raise ReplicaFailed("broken") from error
