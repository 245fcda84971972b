"""Threads' connections whose deadline is that of a whole call. httpx alone bounds each read, so a server that drips
its answer would hold a thread for as long as it likes. Needs no JAX."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

import httpcore
import httpx

_PIECE = 16_384  # bytes; of more, a slow reader could take each byte just in time

Left = Callable[[], float]  # seconds until the deadline of the call in this thread; raises when there are none


class Transport(httpx.HTTPTransport):
    """That of httpx, but the timeout of a request bounds all of it, to the last byte of the answer, except for the
    lookup of a name. Without the proxies of the environment."""

    def __init__(self) -> None:
        super().__init__()
        self._call = threading.local()  # httpx reads an answer in the thread that asked
        pool: Any = self._pool
        pool._network_backend = _Network(pool._network_backend, self._left)  # httpx has no way to hand it in

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Sends it; what is read of the answer later has the same deadline."""
        self._call.end = time.monotonic() + request.extensions["timeout"]["read"]
        return super().handle_request(request)

    def _left(self) -> float:
        left = self._call.end - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("timed out")
        return left


class _Network(httpcore.NetworkBackend):
    def __init__(self, network: httpcore.NetworkBackend, left: Left) -> None:
        self._network, self._left = network, left

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.NetworkStream:  # fmt: skip
        """To the first address of a name that takes it: all of them share the time."""
        try:
            addresses = [address for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        except OSError as e:
            raise httpcore.ConnectError(str(e)) from e
        for address in addresses[:-1]:
            try:
                return self._connect(address, local_address, socket_options)
            except httpcore.ConnectError:
                continue
        return self._connect(addresses[-1], local_address, socket_options)

    def _connect(self, address: Any, local_address: str | None, options: Any) -> _Stream:
        stream = self._network.connect_tcp(address[0], address[1], self._left(), local_address, options)
        return _Stream(stream, self._left)


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, left: Left) -> None:
        self._stream, self._left = stream, left

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _PIECE):
            self._stream.write(buffer[start : start + _PIECE], self._left())

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> _Stream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, self._left()), self._left)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

    def close(self) -> None:
        self._stream.close()
