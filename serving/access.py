"""Who may use a listener: bearer tokens, several at a time so that they can be exchanged without a gap."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
from litestar.types import ASGIApp, Receive, Scope, Send

from serving.console import CONSOLE
from serving.log_events import log_refused
from serving.messages import ErrorAnswer
from serving.telemetry import UNMATCHED, Telemetry

MIN_TOKEN = 16  # characters
# What needs no token: probes have none, and a browser sends none for a page. The console's page asks for one by itself.
OPEN = ("/health/live", "/health/ready", CONSOLE)
EXPECTED = "expected the header 'Authorization: Bearer TOKEN', with a token of this service"


@dataclass(eq=False)
class Tokens:
    """What `Authorization: Bearer` may bring. Its text does not show them."""

    _headers: tuple[bytes, ...]
    _file: Path | None = None

    @staticmethod
    def of(*tokens: str) -> Tokens:
        """These tokens, of ASCII characters."""
        return Tokens(tuple(f"Bearer {token}".encode("ascii") for token in tokens))

    def allow(self, header: bytes) -> bool:
        """Whether it is the header of one of them. The time that takes does not tell how much of it was right."""
        return sum(hmac.compare_digest(header, expected) for expected in self._headers) > 0  # `any` would stop early

    def let_in(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether a request with these headers, names in lower case, has one token, and a right one."""
        given = [value for name, value in headers if name == b"authorization"]
        return len(given) == 1 and self.allow(given[0])

    def read_again(self) -> Path | None:
        """Takes what is in the file by now, if there is one, and names it. Changes nothing if it raises what
        `read_tokens` does."""
        if self._file is not None:
            self._headers = read_tokens(self._file)._headers
        return self._file

    def __len__(self) -> int:
        return len(self._headers)

    def __repr__(self) -> str:
        return f"Tokens({len(self._headers)})"


def read_tokens(path: Path) -> Tokens:
    """The tokens in a file, one a line. Raises ValueError, which names the line and does not show it, and OSError."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: expected tokens of ASCII characters") from None
    tokens = [(number, text) for number, line in enumerate(lines, 1) if (text := line.strip())]
    for number, token in tokens:
        if len(token) < MIN_TOKEN or not token.isprintable() or " " in token:
            raise ValueError(
                f"{path}: line {number}: expected a token of at least {MIN_TOKEN} characters, without spaces"
            )
    if not tokens:
        raise ValueError(f"{path}: expected a token of at least {MIN_TOKEN} characters a line, found none")
    return replace(Tokens.of(*(token for _, token in tokens)), _file=path)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """An ASGI application before another: without a token there is 401, before anything else is done for a request.

    The connection is closed then, so that the rest of a body is not read.
    """

    def __init__(self, app: ASGIApp, tokens: Tokens, telemetry: Telemetry) -> None:
        self._app, self._tokens = app, tokens
        self._refused = telemetry.requests.labels(UNMATCHED, "401")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request through, or refuses it."""
        if scope["type"] == "http" and scope["path"] not in OPEN and not self._tokens.let_in(scope["headers"]):
            self._refused.inc()
            log_refused(scope.get("client"), "no token", 401)
            await _refuse(send)
            return
        await self._app(scope, receive, send)


async def _refuse(send: Send) -> None:
    body = msgspec.json.encode(ErrorAnswer(EXPECTED))
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"www-authenticate", b'Bearer realm="tt-jax"'),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
