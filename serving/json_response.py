"""A JSON answer of the one route that must be fast."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from litestar import Response
from litestar.types import Receive, Scope, Send

T = TypeVar("T")
_ENCODER = msgspec.json.Encoder()


class JsonResponse(Response[T]):
    """A 200 with a message as JSON, which Litestar sends as it is: no headers, cookies or encoders to be merged."""

    def __init__(self, content: T) -> None:
        self.body = _ENCODER.encode(content)

    def to_asgi_response(self, *args: Any, **kwargs: Any) -> Any:
        """Itself."""
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends head and body."""
        length = str(len(self.body)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", length)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})
