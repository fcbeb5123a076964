"""What the gateway's process grows by for clients that only wait."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from fake_replica import FAR_AWAY, HOST, PATH, Request
from rig import Gateway

SETTLE_SECONDS = 1.0  # for a process's memory to stop changing


async def measure(front: Gateway, count: int) -> list[dict[str, Any]]:
    """For clients that have connected, and for such as wait for their second token."""
    return [
        await _memory(front, count, "idle_connection_memory", _connect),
        await _memory(front, count, "idle_stream_memory", _stream),
    ]


async def _memory(
    front: Gateway, count: int, measure: str, open_one: Callable[[int], Awaitable[asyncio.StreamWriter]]
) -> dict[str, Any]:
    before = front.resident_bytes
    writers = [await open_one(front.port) for _ in range(count)]
    await asyncio.sleep(SETTLE_SECONDS)
    during = front.resident_bytes
    for writer in writers:
        writer.close()
    return {
        "measure": measure,
        "connections": count,
        "rss_before_mib": round(before / 2**20, 1),
        "rss_during_mib": round(during / 2**20, 1),
        "kib_per_connection": round((during - before) / count / 1024, 1),
    }


async def _connect(port: int) -> asyncio.StreamWriter:
    """A client that says nothing."""
    _, writer = await asyncio.open_connection(HOST, port)
    return writer


async def _stream(port: int) -> asyncio.StreamWriter:
    """A client that has its first token and waits, long, for the second."""
    reader, writer = await asyncio.open_connection(HOST, port)
    body = msgspec.json.encode(Request(max_tokens=2, interval=FAR_AWAY))
    head = f"POST {PATH} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    await reader.readuntil(b"data: ")
    return writer
