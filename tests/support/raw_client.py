"""A client that writes the bytes of requests itself, and a listener around an application of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from serving.http.connection import Handler
from serving.http.listener import Listener
from serving.limits import ServiceLimits
from serving.service.telemetry import Telemetry

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def echo(seen: list[Any]) -> Any:
    """An application that notes the scopes it sees, and answers with the body."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        body = (await receive())["body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    return app


@asynccontextmanager
async def listening(
    handler: Handler, telemetry: Telemetry, limits: ServiceLimits | None = None, **more: Any
) -> AsyncIterator[Listener]:
    """A listener; `address` has where."""
    more = {"max_body": 2**20, "max_connections": 100} | more
    site = Listener("tests", handler, telemetry.clients, limits or ServiceLimits(), **more)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with site.serving(listener, 1.0):
            site.address = listener.getsockname()  # pyright: ignore[reportAttributeAccessIssue]
            yield site


@asynccontextmanager
async def client_of(site: Listener) -> AsyncIterator[Streams]:
    """A connection to it."""
    reader, writer = await asyncio.open_connection(*site.address)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@asynccontextmanager
async def connected(handler: Handler, telemetry: Telemetry, **limits: Any) -> AsyncIterator[Streams]:
    """A client of what answers."""
    async with listening(handler, telemetry, **limits) as site, client_of(site) as streams:
        yield streams


async def whole(reader: asyncio.StreamReader) -> bytes:
    """An answer, without what says that the body may be sent."""
    async with asyncio.timeout(20):
        head = await reader.readuntil(b"\r\n\r\n")
        while head.startswith(b"HTTP/1.1 100 "):
            head = await reader.readuntil(b"\r\n\r\n")
        return head + await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body."""
    head, body = (await whole(reader)).split(b"\r\n\r\n", 1)
    return int(head[9:12]), body


async def refusal(reader: asyncio.StreamReader) -> tuple[int, str]:
    """Status and message of the last answer of a connection, which is closed then."""
    text = await whole(reader)
    head, body = text.split(b"\r\n\r\n", 1)
    assert b"\r\nconnection: close" in head
    async with asyncio.timeout(20):
        assert not await reader.read()
    return int(head[9:12]), json.loads(body)["error"]
