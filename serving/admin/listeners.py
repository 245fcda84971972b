"""Listeners beside that of the service, in its event loop: of metrics, and of the administrator."""

from __future__ import annotations

import socket
from typing import Any

from litestar import Litestar, MediaType, Request, Response, get

from serving.http.server import bound, listen
from serving.service.telemetry import Telemetry

LOOPBACK = "127.0.0.1"


def open_listener(port: int, host: str = LOOPBACK) -> socket.socket:
    """A socket that takes connections on that address. Raises OSError naming one that cannot be had."""
    listener = bound(host, port)
    listen(listener)
    return listener


def create_metrics(telemetry: Telemetry) -> Litestar:
    """The ASGI application of the metrics listener: `/metrics`, and nothing else."""

    @get("/metrics", media_type=MediaType.TEXT, sync_to_thread=False)
    def metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
        return Response(telemetry.text(), headers={"content-type": telemetry.content_type})

    return Litestar([metrics], openapi_config=None, logging_config=None, debug=False)
