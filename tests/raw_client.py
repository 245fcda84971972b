"""A client that writes the bytes of requests itself, and the connection of a server with an application of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from serving.door import Door
from serving.server import Connection

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def connected(
    door: Door, seen: list[Any], app: Any = None, state: ServerState | None = None
) -> AsyncIterator[Streams]:
    """A client of an application, by default one that notes the scopes it sees, and answers with the body."""

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        body = b""
        while (message := await receive())["more_body"]:
            body += message["body"]
        body += message["body"]
        length = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": length})
        await send({"type": "http.response.body", "body": body})

    config = uvicorn.Config(app or echo, log_config=None, access_log=False)
    protocol = partial(Connection, door, config=config, server_state=state or ServerState(), app_state={})
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1")
    try:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        try:
            yield reader, writer
        finally:
            writer.close()
            await writer.wait_closed()
    finally:
        server.close()


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
