"""The body of a request, if it comes in time."""

from __future__ import annotations

import asyncio
from typing import Any

from litestar import Request
from litestar.exceptions import ClientException, HTTPException, InternalServerException


async def receive_body(request: Request[Any, Any, Any], seconds: float) -> bytes:
    """All of it. Raises `HTTPException`: 408 if it takes longer, 413 if it is too long, 400 if the client leaves."""
    try:
        async with asyncio.timeout(seconds):
            return await request.body()
    except InternalServerException as e:
        raise ClientException(e.detail) from None  # the client went away: nobody reads this, and it is no fault of ours
    except TimeoutError:
        raise HTTPException(status_code=408, detail=f"the body did not arrive within {seconds:g} s") from None
