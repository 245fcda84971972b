"""`tt-jax serve`: an HTTP service around the scorer."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = """  tt-jax serve --bundle=bundles/kuairand --index=indexes/kuairand --port=8080
  curl -s localhost:8080/v1/rank -d '{"query": {"user_id": 7, "hour": 20}, "k": 3}'

With --log-requests=FILE a sample of the answered requests is written for `tt-jax parity`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", type=Path, required=True, help="directory that `tt-jax export` wrote")
    parser.add_argument("--index", type=Path, required=True, help="directory that `tt-jax index` wrote")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on (default 8080)")
    parser.add_argument("--max-k", type=int, default=1000, help="largest k of a request (default 1000)")
    parser.add_argument("--log-requests", type=Path, help="JSON lines to append to; readable by their owner only")
    parser.add_argument("--log-fraction", type=float, default=0.01, help="of the answered requests (default 0.01)")
    parser.add_argument("--log-max-mb", type=float, default=100, help="of a file before it is put aside (default 100)")


def run(args: argparse.Namespace) -> int:
    """Serves until SIGTERM."""
    from serving.request_log import LogSettings
    from serving.service import run as serve

    log = None
    if args.log_requests:
        log = LogSettings(args.log_requests, args.log_fraction, int(args.log_max_mb * 2**20))
    serve(args.bundle, args.index, host=args.host, port=args.port, max_k=args.max_k, log=log)
    return 0
