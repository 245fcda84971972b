"""A load generator for one HTTP/1.1 service: raw sockets and epoll, so that it costs the machine little.

    python -m benchmarks.load --port=8080 --requests=FILE --clients=32 --seconds=5
    python -m benchmarks.load --port=8080 --requests=FILE --clients=512 --seconds=5 --rate=4000 --deadline-ms=100

FILE holds a JSON body per line. Without `--rate` each client sends its next request when it has its answer (closed
loop). With it requests are due at random times (Poisson), whatever the service does (open loop): one that finds no free
client is late from the start, and its latency counts from when it was due. Prints one JSON line.

`--pid` names the process of the service. `cpu` is then processor time in cores: of its first thread, which is the
event loop (`loop`), of its other Python threads, of which only the dispatcher works (`dispatcher`), of all else
(`xla`), and of this process (`load`). Linux only.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import select
import socket
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any

WARM_UP = 0.2  # of the seconds, not counted


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--port", type=int, required=True)
    p.add_argument("--path", default="/v1/rank")
    p.add_argument("--requests", type=Path, required=True)
    p.add_argument("--clients", type=int, default=1)
    p.add_argument("--seconds", type=float, default=5.0)
    p.add_argument("--rate", type=float, default=0.0, help="requests/s of the open loop; 0 = closed loop")
    p.add_argument("--deadline-ms", type=int, default=0, help="header of every request; 0 = none")
    p.add_argument("--pid", type=int, help="of the service")
    return p.parse_args()


class Client:
    """One connection, with at most one request in flight."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.due, self.status, self._parts, self._left = 0.0, 0, b"", 0

    def send(self, request: bytes, due: float) -> None:
        """`due`: what the latency counts from."""
        self.due, self.status, self._parts = due, 0, b""
        self.socket.sendall(request)

    def received(self) -> bool:
        """Reads what is there; whether the answer is complete."""
        data = self.socket.recv(1 << 18)
        if not data:
            raise ConnectionError("the service closed a connection")
        if not self.status:
            self._parts += data
            head, found, body = self._parts.partition(b"\r\n\r\n")
            if not found:
                return False
            lower = head.lower()
            at = lower.index(b"content-length:") + len(b"content-length:")
            self.status, self._left = int(head[9:12]), int(lower[at:].split(b"\r\n", 1)[0]) - len(body)
        else:
            self._left -= len(data)
        return self._left <= 0


def read_requests(a: argparse.Namespace) -> list[bytes]:
    """Complete requests."""
    deadline = f"X-Deadline-Ms: {a.deadline_ms}\r\n" if a.deadline_ms else ""
    head = f"POST {a.path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{deadline}Content-Length: "
    bodies = a.requests.read_bytes().splitlines()
    return [head.encode() + b"%d\r\n\r\n" % len(body) + body for body in bodies]


def drive(a: argparse.Namespace, requests: list[bytes]) -> list[tuple[float, float, int]]:
    """When each answered request was due, its latency and its status."""
    clients = [Client(a.port) for _ in range(a.clients)]
    poll, by_fd = select.epoll(), {c.socket.fileno(): c for c in clients}
    for fd in by_fd:
        poll.register(fd, select.EPOLLIN)
    rng, free, sent, found = random.Random(0), deque(clients), 0, []
    start = time.perf_counter()
    end, next_due = start + a.seconds, start
    while (now := time.perf_counter()) < end:
        while free and (not a.rate or next_due <= now):
            free.popleft().send(requests[sent % len(requests)], next_due if a.rate else time.perf_counter())
            sent += 1
            next_due += rng.expovariate(a.rate) if a.rate else 0.0
        timeout = next_due - now if a.rate and free else end - now
        for fd, _ in poll.poll(max(0.0, timeout)):
            client = by_fd[fd]
            if client.received():
                found.append((client.due, time.perf_counter() - client.due, client.status))
                free.append(client)
    for client in clients:
        client.socket.close()
    return [answer for answer in found if answer[0] - start >= WARM_UP * a.seconds]


def used(pid: int) -> dict[str, float]:
    """Processor time so far, in seconds, of the service's threads by kind, and of this process."""
    found, tick = {"load": time.process_time(), "loop": 0.0, "dispatcher": 0.0, "xla": 0.0}, os.sysconf("SC_CLK_TCK")
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
        kind = "loop" if int(stat.parent.name) == pid else "dispatcher" if name.startswith("python") else "xla"
        found[kind] += sum(map(int, rest.split()[11:13])) / tick
    return found


def summary(a: argparse.Namespace, found: list[tuple[float, float, int]]) -> dict[str, Any]:
    """Latencies in milliseconds, of the answers with ads; throughput of those, and of those in time.

    A quantile of so few answers that none is beyond it is None: p99 is of 100 or more.
    """
    latencies = sorted(seconds * 1e3 for _, seconds, status in found if status == 200)
    seconds = (1 - WARM_UP) * a.seconds
    line: dict[str, Any] = {"clients": a.clients, "per_s": round(len(latencies) / seconds)}
    if a.rate:
        in_time = sum(ms <= a.deadline_ms for ms in latencies) if a.deadline_ms else len(latencies)
        line |= {
            "offered_per_s": round(a.rate),
            "deadline_ms": a.deadline_ms,
            "in_time_per_s": round(in_time / seconds),
        }
    for name, share in (("p50_ms", 0.5), ("p99_ms", 0.99), ("p99.9_ms", 0.999)):
        enough = len(latencies) * (1 - share) >= 1 - 1e-9
        line[name] = round(latencies[math.ceil(share * len(latencies)) - 1], 3) if enough else None
    return {**line, "statuses": dict(sorted(Counter(status for *_, status in found).items()))}


def main() -> None:
    a = parse_args()
    requests, before, start = read_requests(a), used(a.pid) if a.pid else None, time.perf_counter()
    line = summary(a, drive(a, requests))
    if before is not None:
        seconds = time.perf_counter() - start
        line["cpu"] = {kind: round((s - before[kind]) / seconds, 2) for kind, s in sorted(used(a.pid).items())}
    print(json.dumps(line))


if __name__ == "__main__":
    main()
