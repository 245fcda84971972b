"""Who may use a listener: bearer tokens, several at a time so that they can be exchanged without a gap."""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

MIN_TOKEN = 16  # characters
# What needs no token: probes have none. (A page needs none either, see `Pages`: a browser sends none for it.)
OPEN = ("/health/live", "/health/ready")
EXPECTED = "expected the header 'Authorization: Bearer TOKEN', with a token of this service"


@dataclass(eq=False)
class Tokens:
    """What `Authorization: Bearer` may bring. Its text does not show them."""

    _tokens: tuple[bytes, ...]
    _file: Path | None = None

    @staticmethod
    def of(*tokens: str) -> Tokens:
        """These tokens, of ASCII characters."""
        return Tokens(tuple(token.encode("ascii") for token in tokens))

    def allow(self, header: bytes) -> bool:
        """Whether it is the header of one of them, with `Bearer` in any case. The time that takes does not tell how
        much of it was right."""
        scheme, _, token = header.partition(b" ")
        right = sum(hmac.compare_digest(token.strip(), known) for known in self._tokens)  # `any` would stop early
        return scheme.lower() == b"bearer" and right > 0

    def let_in(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether a request with these headers, names in lower case, has one token, and a right one."""
        given = [value for name, value in headers if name == b"authorization"]
        return len(given) == 1 and self.allow(given[0])

    def read_again(self) -> Path | None:
        """Takes what is in the file by now, if there is one, and names it. Changes nothing if it raises what
        `read_tokens` does."""
        if self._file is not None:
            self._tokens = read_tokens(self._file)._tokens
        return self._file

    def __len__(self) -> int:
        return len(self._tokens)

    def __repr__(self) -> str:
        return f"Tokens({len(self._tokens)})"


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


class Hosts:
    """The names by which a listener may be asked when only this machine reaches it and no token is needed.

    A page of the internet can have its own name lead here (DNS rebinding), and then read what is answered, but not
    choose another `Host`. A name without a dot can be no such name.
    """

    def __init__(self, *allowed: str) -> None:
        """`allowed`: beside those of this machine; `*` = any."""
        self._allowed = {name.lower() for name in allowed}

    def allow(self, hosts: Iterable[bytes]) -> bool:
        """Whether a request with these `Host` headers may come in. Browsers send one; who sends none is no browser."""
        return "*" in self._allowed or all(self._is_ours(host.decode("latin-1").lower()) for host in hosts)

    def _is_ours(self, host: str) -> bool:
        name = re.sub(r":\d*$", "", host).strip("[]").removesuffix(".")
        is_local = ("." not in name and ":" not in name) or name.endswith(".localhost")
        return is_local or is_loopback(name) or name in self._allowed


def hosts_of(address: str, tokens: Tokens | None, allowed: Iterable[str]) -> Hosts | None:
    """Those that a listener on this address checks; None = it does not, as others than browsers here can ask it, or
    need a token."""
    return Hosts(*allowed) if tokens is None and is_loopback(address) else None
