"""An ASGI application, called for one request that has been read."""

from __future__ import annotations

import asyncio
from typing import Any

from litestar.types import ASGIApp

from serving.http.protocol import Reply, Request
from serving.log_events import address

STARTED = "tt_jax_started"  # in the state of a request: when it came, of `time.perf_counter`
REQUEST_ID = "tt_jax_request_id"  # in the state of a request
_OURS = (b"content-length", b"connection")  # the connection writes these


async def call(app: ASGIApp, request: Request) -> Reply:
    """Its answer. HEAD is asked as GET: the connection leaves the body out."""
    host, _, port = address(request.client).rpartition(":")
    scope: Any = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET" if request.method == b"HEAD" else request.method.decode("ascii"),
        "scheme": "http",
        "path": request.path,
        "raw_path": request.target.partition(b"?")[0],
        "query_string": request.query,
        "root_path": "",
        "headers": request.headers,
        "client": (host.strip("[]"), int(port)) if port.isdigit() else None,
        "server": None,
        "state": {STARTED: request.started, REQUEST_ID: request.id.decode("ascii")},
    }
    coming = [{"type": "http.request", "body": bytes(request.body), "more_body": False}]
    status, headers, parts, close = 500, [], [], False

    async def receive() -> Any:
        if coming:
            return coming.pop()
        return await asyncio.get_running_loop().create_future()  # nothing more: the client waits for its answer

    async def send(message: Any) -> None:
        nonlocal status, headers, close
        if message["type"] == "http.response.start":
            given = [(name.lower(), value) for name, value in message.get("headers", ())]
            status, headers = message["status"], [h for h in given if h[0] not in _OURS]
            close = (b"connection", b"close") in given
        else:
            parts.append(message.get("body", b""))

    await app(scope, receive, send)
    return Reply(status, headers, b"".join(parts), close)
