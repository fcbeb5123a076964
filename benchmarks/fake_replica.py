"""A model server without a model: streams tokens at a fixed interval, each stamped with when it was sent.

CLOCK_MONOTONIC is one clock for all processes of a machine, so a reader there can tell how long a token
was under way.
"""

import asyncio
import time
from contextlib import suppress
from multiprocessing.connection import Connection

import msgspec
from aiohttp import web

HOST = "127.0.0.1"
PATH = "/v1/completions"
FAR_AWAY = 3600.0  # seconds: "stream, but say nothing more"


class Request(msgspec.Struct):
    max_tokens: int
    interval: float  # seconds between tokens


class Token(msgspec.Struct):
    sent: float  # time.monotonic() of the replica


async def completions(request: web.Request) -> web.StreamResponse:
    asked = msgspec.json.decode(await request.read(), type=Request)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    start = time.monotonic()
    for index in range(asked.max_tokens):
        await asyncio.sleep(max(0.0, start + index * asked.interval - time.monotonic()))
        await response.write(b"data: " + msgspec.json.encode(Token(time.monotonic())) + b"\n\n")
    await response.write(b"data: [DONE]\n\n")
    return response


async def ready(_: web.Request) -> web.Response:
    return web.Response(text="ok")


async def serve(parent: Connection) -> None:
    """Tells `parent` the port, then serves until cancelled."""
    app = web.Application()
    app.router.add_get("/health/ready", ready)
    app.router.add_post(PATH, completions)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0, backlog=4096).start()
    parent.send(runner.addresses[0][1])
    await asyncio.Event().wait()


def main(parent: Connection) -> None:
    """The child process's entry point."""
    import uvloop

    with suppress(KeyboardInterrupt):
        uvloop.run(serve(parent))
