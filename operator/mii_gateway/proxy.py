"""HTTP: reads a request whole, so that any replica can have it, and answers with what a replica says."""

import asyncio
import contextlib
import logging
import uuid
from dataclasses import dataclass

from aiohttp import web
from multidict import CIMultiDict

from mii_gateway.dispatch import Dispatcher
from mii_gateway.errors import Refusal, body_too_large
from mii_gateway.headers import REQUEST_ID, not_utf8, request_headers
from mii_gateway.keys import KeyRing
from mii_gateway.lifecycle import Lifecycle
from mii_gateway.record import Record, Recorder
from mii_gateway.relay import Relay
from mii_gateway.upstream import HttpUpstream, Outgoing
from mii_gateway.work import Lease, Work

BODY_TIMEOUT = 60.0  # seconds that a client has to send a request's body

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Limits:
    deployment_name: str
    max_body_bytes: int
    idle_timeout: float  # seconds without a byte from a replica or to the client
    body_timeout: float = BODY_TIMEOUT


class HttpProxy:
    def __init__(
        self,
        upstream: HttpUpstream,
        dispatcher: Dispatcher,
        recorder: Recorder,
        lifecycle: Lifecycle,
        keys: KeyRing,
        limits: Limits,
    ) -> None:
        self._upstream = upstream
        self._dispatcher = dispatcher
        self._recorder = recorder
        self._lifecycle = lifecycle
        self._keys = keys
        self._limits = limits

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answers with a replica's response or with an OpenAI-shaped error of the gateway's own."""
        with self._recorder.record(_new_record(request)) as record:
            try:
                response = await self._forward(request, record)
            except Refusal as refusal:
                response = self._refuse(refusal, record)
            except (asyncio.CancelledError, ConnectionError):
                record.status, record.error = "499", "the client left"
                raise
            except Exception as error:
                log.exception("request %s failed inside the gateway", record.request_id)
                record.error = repr(error)
                response = self._refuse(Refusal(500, "the gateway failed", code="internal_error"), record)
            return response

    async def expect(self, request: web.Request) -> None:
        """Lets a client that waits with its body send it, unless `handle` will refuse it anyway."""
        waits = request.headers.get("Expect", "").lower() == "100-continue"
        if (
            waits
            and self._welcome(request)
            and not self._declared_too_large(request)
            and request.transport is not None
        ):
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _welcome(self, request: web.Request) -> bool:
        with contextlib.suppress(Refusal):
            self._keys.authenticate(request.headers.get("Authorization"))
            return True
        return False

    async def _forward(self, request: web.Request, record: Record) -> web.StreamResponse:
        record.key = self._keys.authenticate(request.headers.get("Authorization"))
        self._check_deployment(request)
        outgoing = await self._read(request, record)

        async def attempt(lease: Lease) -> web.StreamResponse:
            async with self._upstream.open(lease.replica, outgoing, record) as (connection, first):
                lease.first_byte()
                relay = Relay(request, connection, record, idle_timeout=self._limits.idle_timeout)
                if self._lifecycle.draining:
                    relay.response.force_close()
                if not await relay.run(first):
                    self._dispatcher.lost(lease, "broken")
                return relay.response

        return await self._dispatcher.run(Work.of(outgoing.body, record.key), record, attempt)

    def _check_deployment(self, request: web.Request) -> None:
        """MII's REST API names one."""
        asked, served = request.match_info.get("deployment"), self._limits.deployment_name
        if asked is not None and asked != served:
            message = f"no deployment {asked!r} here; this gateway serves {served!r}"
            raise Refusal(404, message, code="deployment_not_found")

    async def _read(self, request: web.Request, record: Record) -> Outgoing:
        """The whole request. Raises Refusal if it is too large, too slow or malformed."""
        if self._declared_too_large(request):
            raise body_too_large(self._limits.max_body_bytes)
        if header := not_utf8(request.headers):
            raise Refusal(400, f"the value of the header {header!r} is not UTF-8", code="invalid_header")
        body = await self._read_body(request)
        record.got_body(len(body))
        return Outgoing(
            method=request.method,
            target=request.rel_url.raw_path_qs,
            headers=self._request_headers(request, record),
            body=body,
            stripped=request.version < (1, 1),
        )

    def _request_headers(self, request: web.Request, record: Record) -> CIMultiDict[str]:
        headers = request_headers(request.headers, record.request_id)
        if self._keys.required:  # the key is for the gateway, not for replicas
            headers.popall("Authorization", None)
        return headers

    async def _read_body(self, request: web.Request) -> bytes:
        try:
            async with asyncio.timeout(self._limits.body_timeout):
                return await request.read()
        except web.HTTPRequestEntityTooLarge:
            raise body_too_large(self._limits.max_body_bytes) from None
        except TimeoutError:
            message = f"the request body took longer than {self._limits.body_timeout:g} seconds"
            raise Refusal(408, message, code="request_timeout") from None
        except web.PayloadAccessError as error:
            raise Refusal(400, f"the request body is malformed: {error}", code="invalid_body") from error

    def _declared_too_large(self, request: web.Request) -> bool:
        return (request.content_length or 0) > self._limits.max_body_bytes

    def _refuse(self, refusal: Refusal, record: Record) -> web.Response:
        record.status, record.error = str(refusal.status), record.error or refusal.message
        response = refuse(refusal)
        response.headers[REQUEST_ID] = record.request_id
        if self._lifecycle.draining or refusal.status == 408:
            response.force_close()
        return response


def refuse(refusal: Refusal) -> web.Response:
    response = web.json_response(refusal.body(), status=refusal.status)
    if refusal.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if refusal.retry_after is not None:
        response.headers["Retry-After"] = str(refusal.retry_after)
    return response


def _new_record(request: web.Request) -> Record:
    return Record(
        protocol="http",
        method=request.method,
        path=request.rel_url.raw_path,
        request_id=request.headers.get(REQUEST_ID) or uuid.uuid4().hex,
        client=request.remote or "",
    )
