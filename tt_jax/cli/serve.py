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
    parser.add_argument("--deltas", type=Path, help="directory of the deltas of this index (default none)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on (default 8080)")
    parser.add_argument("--max-k", type=int, default=1000, help="largest k of a request (default 1000)")
    parser.add_argument(
        "--admin-port", type=int, help="port of the admin listener, on 127.0.0.1 (default: no listener)"
    )
    parser.add_argument("--admin-token-file", type=Path, help="file with the token of the admin listener")
    parser.add_argument("--max-queue", type=int, default=256, help="queries that may wait; more get 503 (default 256)")
    parser.add_argument(
        "--max-wait-ms", type=float, default=0.0, help="how long few waiting queries wait for more (default 0)"
    )
    parser.add_argument("--grace-s", type=float, default=10.0, help="from SIGTERM to the exit, at most (default 10)")
    parser.add_argument("--read-s", type=float, default=10.0, help="for a request's head, and its body (default 10)")
    parser.add_argument("--unread-s", type=float, default=30.0, help="for a client to take an answer (default 30)")
    parser.add_argument("--keep-alive-s", type=int, default=75, help="for a connection to be idle (default 75)")
    parser.add_argument("--console", action="store_true", help="a page at /console to look at it and try requests")
    parser.add_argument("--console-beside", default="", help="origin of a service to show beside this one")
    parser.add_argument("--console-origin", default="", help="origin of a service whose console may read this one")
    parser.add_argument("--log-requests", type=Path, help="JSON lines to append to; readable by their owner only")
    parser.add_argument("--log-fraction", type=float, default=0.01, help="of the answered requests (default 0.01)")
    parser.add_argument("--log-max-mb", type=float, default=100, help="of a file before it is put aside (default 100)")


def run(args: argparse.Namespace) -> int:
    """Serves until SIGTERM; SIGHUP loads the bundle, the index and the deltas anew."""
    import signal
    from contextlib import ExitStack
    from functools import partial

    from serving.admin import administered, open_listener, read_token
    from serving.console import ConsoleSettings
    from serving.live import Sources
    from serving.load import Load
    from serving.request_log import LogSettings
    from serving.server import require_port
    from serving.service import run as serve

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it serves: what it is about to load is the newest
    if (args.admin_port is None) != (args.admin_token_file is None):
        raise ValueError("expected --admin-port and --admin-token-file together")
    require_port(args.port)
    load = Load(
        max_queue=args.max_queue,
        max_wait=args.max_wait_ms / 1e3,
        grace=args.grace_s,
        read=args.read_s,
        unread=args.unread_s,
        keep_alive=args.keep_alive_s,
    )
    log = None
    if args.log_requests:
        log = LogSettings(args.log_requests, args.log_fraction, int(args.log_max_mb * 2**20))
    if (args.console_beside or args.console_origin) and not args.console:
        raise ValueError("expected --console with --console-beside and --console-origin")
    console = ConsoleSettings(args.console_beside, args.console_origin) if args.console else None
    sources, token = Sources(args.bundle, args.index, args.deltas), ""
    with ExitStack() as stack:
        listener = None
        if args.admin_port is not None:
            require_port(args.admin_port)
            token = read_token(args.admin_token_file)
            listener = stack.enter_context(open_listener(args.admin_port))
            print(f"admin http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        serve(
            args.bundle,
            args.index,
            args.deltas,
            host=args.host,
            port=args.port,
            max_k=args.max_k,
            load=load,
            log=log,
            console=console,
            live=listener is not None,
            beside=partial(administered, sources=sources, listener=listener, token=token),
        )
    return 0
