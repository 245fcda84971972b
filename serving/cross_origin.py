"""Lets the pages of one other origin read what this service answers: CORS, for a console that shows two services."""

from __future__ import annotations

from litestar.types import ASGIApp, Message, Receive, Scope, Send

_PREFLIGHT = b"access-control-request-method"


class CrossOrigin:
    """An ASGI application around all others, so that a browser may also show why a request was refused.

    The origin is always the same, so every answer names it, whoever asks: browsers compare.

    Attributes:
      header: of every answer.
    """

    def __init__(self, app: ASGIApp, origin: str) -> None:
        self._app, self.header = app, (b"access-control-allow-origin", origin.encode("ascii"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers what a browser asks before a request, else adds the header to the answer."""

        async def allowed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), self.header]
            await send(message)

        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["method"] == "OPTIONS" and any(name == _PREFLIGHT for name, _ in scope["headers"]):
            await _answer_preflight(allowed)
        else:
            await self._app(scope, receive, allowed)


async def _answer_preflight(send: Send) -> None:
    headers = [
        (b"access-control-allow-methods", b"GET, POST"),
        (b"access-control-allow-headers", b"authorization, content-type"),
        (b"access-control-max-age", b"600"),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
