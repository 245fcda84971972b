"""The body of a request, if it comes in time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from litestar.exceptions import HTTPException
from litestar.types import Receive

from serving.errors import client_left


async def receive_body(headers: Iterable[tuple[bytes, bytes]], receive: Receive, most: int, seconds: float) -> bytes:
    """All of it, up to `most` bytes.

    Raises `HTTPException`: 408 if it takes longer, 413 if it is too long, which its head may tell, 400 if the client
    leaves.
    """
    if any(name == b"content-length" and value.isdigit() and int(value) > most for name, value in headers):
        raise HTTPException(status_code=413)
    body, more = b"", True
    try:
        async with asyncio.timeout(seconds):
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    raise client_left()
                part, more = message.get("body", b""), message.get("more_body", False)
                body = body + part if body else part
                if len(body) > most:
                    raise HTTPException(status_code=413)
    except TimeoutError:
        raise HTTPException(status_code=408, detail=f"the body did not arrive within {seconds:g} s") from None
    return body
