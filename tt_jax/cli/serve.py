"""`tt-jax serve`: an HTTP service around the scorer."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = """  tt-jax serve --bundle=bundles/kuairand --index=indexes/kuairand --port=8080
  curl -s localhost:8080/v1/rank -d '{"query": {"user_id": 7, "hour": 20}, "k": 3}'"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", type=Path, required=True, help="directory that `tt-jax export` wrote")
    parser.add_argument("--index", type=Path, required=True, help="directory that `tt-jax index` wrote")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on (default 8080)")
    parser.add_argument("--max-k", type=int, default=1000, help="largest k of a request (default 1000)")


def run(args: argparse.Namespace) -> int:
    """Serves until SIGTERM."""
    from serving.service import run as serve

    serve(args.bundle, args.index, host=args.host, port=args.port, max_k=args.max_k)
    return 0
