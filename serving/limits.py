"""How much work and how many slow clients a service bears."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class ServiceLimits:
    """Limits of a service. Times in seconds. Raises ValueError for a value that cannot be.

    Attributes:
      max_queue: most queries that wait to be ranked; more are answered with 503. 256 are about a tenth of a second of
        work on two cores.
      max_wait: how long a few waiting queries may wait for more, see `Batcher`.
      grace: from SIGTERM to the exit, at the latest.
      read: for the head of a request, and again for its body.
      unread: an answer that the client has not taken by then is dropped, with its connection.
      stuck: how long the thread that ranks may take for one call, or one change of what it ranks with. Compilation is
        done elsewhere.
      max_bodies: bytes of all bodies of a listener that are being read or answered, but for the first 16 KiB of each;
        and likewise of all answers that clients have not taken.
      max_connections: to the service; more get 503. 0 = 10,000, or fewer if the process may not open as many files.
      keep_alive: how long a connection may be idle between requests. Longer than the 60 s of usual load balancers, so
        that they close first and never send a request into a closing connection.
    """

    max_queue: int = 256
    max_wait: float = 0.0
    grace: float = 10.0
    read: float = 10.0
    unread: float = 30.0
    keep_alive: int = 75
    stuck: float = 30.0
    max_bodies: int = 256 * 2**20
    max_connections: int = 0

    def __post_init__(self) -> None:
        least = {"max_queue": 1, "max_wait": 0.0, "grace": 1.0, "read": 0.1, "unread": 0.1, "keep_alive": 1}
        least |= {"stuck": 1.0, "max_bodies": 0, "max_connections": 0}
        for name, smallest in least.items():
            if not smallest <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}: expected a number of at least {smallest}, got {getattr(self, name)}")
