"""One address of the service: its connections, with one set of limits for whoever connects, and their end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from serving.http.client_metrics import UNMATCHED, ClientMetrics
from serving.http.connection import Connection, Handler
from serving.http.protocol import Reply, Request
from serving.limits import ServiceLimits
from serving.log_events import address, log_event, log_refused

BACKLOG = 2048  # connections that the kernel accepts before we do
_EVERY = 0.5  # s between two looks for connections that are stuck
_LINGERING = 128  # connections that were not let in, and may read why


class Listener:
    """What the connections of one address share: see `serving.http.connection.Site`."""

    def __init__(
        self,
        name: str,
        handler: Handler,
        metrics: ClientMetrics,
        limits: ServiceLimits,
        *,
        max_body: int,
        max_connections: int,
        access_log: bool = False,
    ) -> None:
        """`name`: in metrics and logs. `max_body`: bytes of one request."""
        self.handler, self.limits, self.max_body, self.is_draining = handler, limits, max_body, False
        self.connections: set[Connection] = set()
        self._name, self._metrics, self._most, self._access_log = name, metrics, max_connections, access_log
        self._held, self._lingering = 0, set[Connection]()
        metrics.connections.labels(name).set_function(lambda: len(self.connections))
        metrics.held.labels(name).set_function(lambda: self._held)

    def enter(self, connection: Connection) -> bool:
        """Lets a connection in, if there is room."""
        if len(self.connections) >= self._most:
            return False
        self.connections.add(connection)
        return True

    def leave(self, connection: Connection) -> None:
        """It is closed."""
        self.connections.discard(connection)
        self._lingering.discard(connection)

    def linger(self, connection: Connection) -> bool:
        """One that was let in has its place; of the others there is room for few."""
        if connection not in self.connections and len(self._lingering) < _LINGERING:
            self._lingering.add(connection)
        return connection in self.connections or connection in self._lingering

    def hold(self, size: int) -> bool:
        """Whether there is memory for so many more bytes of bodies; a negative `size` gives some back."""
        if size > 0 and self._held + size > self.limits.max_bodies:
            return False
        self._held += size
        return True

    def refused(self, reason: str, client: Any, status: int | None) -> None:
        """Counts a client that was refused or hung up on, and logs it."""
        if status is not None:
            self._metrics.answers.labels(UNMATCHED, str(status)).inc()
        if reason:
            self._metrics.refused.labels(self._name, reason).inc()
            log_refused(client, f"{reason}, {self._name} listener", status)

    def answered(self, request: Request, reply: Reply) -> None:
        """The access log."""
        if self._access_log:
            log_event(
                "access",
                client=address(request.client),
                listener=self._name,
                method=request.method.decode("ascii", "replace"),
                path=request.path[:256] or "-",
                status=reply.status,
                bytes=len(reply.body),
                ms=round((time.perf_counter() - request.started) * 1e3, 3),
                request_id=request.id.decode("ascii"),
            )

    @asynccontextmanager
    async def serving(self, listener: socket.socket, grace: float) -> AsyncIterator[None]:
        """Takes connections while the block lasts; then ends them, when they have their answers or after `grace` s."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Connection(self), sock=listener, backlog=BACKLOG)
        checking = asyncio.create_task(self._check())
        try:
            yield
        finally:
            server.close()
            await self.drain(grace)
            checking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await checking

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(_EVERY)
            now = time.monotonic()
            for connection in tuple(self.connections):
                connection.check(now)
            self._bound_unread()

    def _bound_unread(self) -> None:
        """Hangs up on those who have not taken their answers for longest, while these are too many bytes together."""
        unread = sum(connection.unread for connection in self.connections)
        for connection in sorted(self.connections, key=lambda connection: connection.unread_since):
            if unread <= self.limits.max_bodies:
                break
            unread -= connection.unread
            connection.hang_up("unread")

    async def drain(self, grace: float) -> None:
        """Ends the connections, each when it has its answers, all after `grace` s."""
        self.is_draining, end = True, time.monotonic() + grace
        for connection in tuple(self.connections):
            connection.drain()
        while self.connections and time.monotonic() < end:
            await asyncio.sleep(0.02)
        self.abort()
        await asyncio.sleep(0)  # until they are closed

    def abort(self) -> None:
        """Ends all connections now."""
        for connection in (*self.connections, *self._lingering):
            connection.abort()
