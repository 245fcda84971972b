"""`tt-jax serve`: an HTTP service around the scorer."""

from __future__ import annotations

import argparse
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextlib import ExitStack

    from serving.console.console import ConsoleSettings
    from serving.limits import ServiceLimits
    from serving.parity.request_log import LogSettings
    from serving.routing.plan import Plan
    from serving.scoring.compile_cache import CompileCache
    from serving.service.app import Service
    from serving.service.config import ServiceConfig
    from serving.service.run import Listeners

EXAMPLE = """  tt-jax serve --bundle=bundles/kuairand --index=indexes/kuairand --port=8080
  curl -s localhost:8080/v1/rank -d '{"query": {"user_id": 7, "hour": 20}, "k": 3}'
  tt-jax serve --model standard=a/bundle,a/index --model shopping=b/bundle,b/index --route=scenario

With --log-requests=FILE a sample of the answered requests is written for `tt-jax parity`."""
BROKEN = 70  # exit code when the thread that ranks has ended or is stuck: EX_SOFTWARE of sysexits.h
NOT_STARTED = 2  # exit code of every verb for what it cannot take
_LAST_THREADS = 0.1  # of the grace time: for threads, once the last answer is written


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", type=Path, help="directory that `tt-jax export` wrote")
    parser.add_argument("--index", type=Path, help="directory that `tt-jax index` wrote")
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        help="in place of --bundle and --index, a model of several: NAME=BUNDLE,INDEX, or with a split of its requests"
        " NAME=70:BUNDLE,INDEX,30:BUNDLE,INDEX (repeatable)",
    )
    parser.add_argument(
        "--shadow", action="append", default=[], help="NAME=SHARE:BUNDLE,INDEX also ranks a share, unseen (repeatable)"
    )
    parser.add_argument("--route", choices=("scenario",), help="what finds the model of a request that names none")
    parser.add_argument("--split-by", help="query feature that splits requests (default: user id, or the request's)")
    parser.add_argument("--models", type=Path, help="TOML file, in place of --model, --shadow, --route and --split-by")
    parser.add_argument("--deltas", type=Path, help="directory of the deltas of this index (default none)")
    parser.add_argument(
        "--journal",
        type=Path,
        help="directory in which changes of ads last, of several models one in it for each (default: they do not)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on (default 8080)")
    parser.add_argument(
        "--token-file", type=Path, help="tokens, one a line, of those who may use it (default: all may)"
    )
    parser.add_argument("--metrics-port", type=int, help="port of /metrics alone (default: it is on --port)")
    parser.add_argument("--metrics-host", default="127.0.0.1", help="address of --metrics-port (default 127.0.0.1)")
    parser.add_argument("--max-k", type=int, default=1000, help="largest k of a request (default 1000)")
    parser.add_argument("--max-candidates", type=int, default=16_384, help="of a query (default 16384)")
    parser.add_argument("--devices", type=int, default=1, help="of JAX, to split the ads over (default 1)")
    parser.add_argument("--max-queries", type=int, default=64, help="of a request (default 64)")
    parser.add_argument("--max-body-kb", type=float, default=1024, help="of a request (default 1024)")
    parser.add_argument(
        "--max-body-total-mb", type=float, default=256, help="of all unanswered requests of a listener (default 256)"
    )
    parser.add_argument(
        "--max-connections", type=int, default=0, help="more get 503 (default 10000, fewer if few files may be open)"
    )
    parser.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        help="a name that requests may be for on loopback without tokens, beside this machine's; * = any (repeatable)",
    )
    parser.add_argument(
        "--admin-port", type=int, help="port of the admin listener, on 127.0.0.1 (default: no listener)"
    )
    parser.add_argument("--admin-token-file", type=Path, help="tokens, one a line, of the admin listener")
    parser.add_argument("--max-queue", type=int, default=256, help="queries that may wait; more get 503 (default 256)")
    parser.add_argument(
        "--max-wait-ms", type=float, default=0.0, help="how long few waiting queries wait for more (default 0)"
    )
    parser.add_argument("--grace-s", type=float, default=10.0, help="from SIGTERM to the exit, at most (default 10)")
    parser.add_argument("--read-s", type=float, default=10.0, help="for a request's head, and its body (default 10)")
    parser.add_argument("--unread-s", type=float, default=30.0, help="for a client to take an answer (default 30)")
    parser.add_argument("--keep-alive-s", type=int, default=75, help="for a connection to be idle (default 75)")
    parser.add_argument("--stuck-s", type=float, default=30.0, help="for a call; longer ends the process (default 30)")
    parser.add_argument(
        "--compile-cache", type=Path, help="directory that keeps compiled programs for the next start (default: none)"
    )
    parser.add_argument("--console", action="store_true", help="a page at /console to look at it and try requests")
    parser.add_argument("--console-beside", default="", help="origin of a service to show beside this one")
    parser.add_argument("--console-origin", default="", help="origin of a service whose console may read this one")
    parser.add_argument("--log-format", choices=("text", "json"), default="text", help="of the log on stderr (text)")
    parser.add_argument("--access-log", action="store_true", help="log each answer of each listener")
    parser.add_argument("--log-requests", type=Path, help="JSON lines to append to; readable by their owner only")
    parser.add_argument("--log-fraction", type=float, default=0.01, help="of the answered requests (default 0.01)")
    parser.add_argument("--log-max-mb", type=float, default=100, help="of a file before it is put aside (default 100)")


def run(args: argparse.Namespace) -> int:
    """Serves until SIGTERM; SIGHUP loads the bundle, the index, the deltas, the journal and the tokens anew."""
    import logging

    from serving.error_answer import one_line
    from serving.log_events import configure, log_event

    configure(args.log_format)
    try:
        return _serve(args)
    except Exception as e:
        if args.log_format != "json":
            raise  # told as by every verb
        error = None if isinstance(e, ValueError | OSError) else e
        log_event("not_started", logging.CRITICAL, error=error, reason=one_line(str(e)), code=NOT_STARTED)
        return NOT_STARTED


def _serve(args: argparse.Namespace) -> int:
    import signal
    from contextlib import ExitStack, suppress

    from serving.batching.batcher import DispatcherError
    from serving.http.server import require_port
    from serving.log_events import log_event
    from serving.scoring.compile_cache import CompileCache
    from serving.service.run import run as run_service

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it serves: what it is about to load is the newest
    if (args.admin_port is None) != (args.admin_token_file is None):
        raise ValueError("expected --admin-port and --admin-token-file together")
    require_port(args.port)
    config = _config(args)
    cache = CompileCache(args.compile_cache) if args.compile_cache else None
    plan = _plan(args)
    code = BROKEN
    with ExitStack() as sockets, suppress(DispatcherError):  # logged already
        run_service(plan, config, _other_listeners(args, plan, config, cache, sockets))
        code = 0
    log_event("stopped", code=code)
    _end_threads(_LAST_THREADS * config.limits.grace, code)
    if cache is not None:
        cache.keep()  # also what was compiled for a larger index, or another pair
    return code


def _plan(args: argparse.Namespace) -> Plan:
    """Which models, by one of the three ways to say it."""
    from serving.routing.plan import Plan
    from serving.scorer_updates import Sources

    bundle, index = args.bundle, args.index
    several = bool(args.model or args.shadow or args.route or args.split_by)
    ways = (bundle is not None or index is not None) + several + (args.models is not None)
    if ways != 1 or (bundle is None) != (index is None):
        given = [
            flag
            for flag in ("bundle", "index", "model", "shadow", "route", "split_by", "models")
            if getattr(args, flag)
        ]
        shown = ", ".join(f"--{flag.replace('_', '-')}" for flag in given) or "none"
        raise ValueError(f"expected --bundle and --index, or --model for each model, or --models, got {shown}")
    if bundle is not None and index is not None:
        return Plan.alone(Sources(bundle, index, args.deltas, args.journal))
    if args.deltas or (args.models and args.journal):
        flag = f"--deltas={args.deltas}" if args.deltas else f"--journal={args.journal}"
        raise ValueError(f"{flag}: expected --bundle and --index; of several models, write it in the file of --models")
    if args.models:
        return Plan.read(args.models)
    return Plan.of_flags(args.model, args.shadow, args.route or "", args.split_by or "", args.journal)


def _config(args: argparse.Namespace) -> ServiceConfig:
    import logging

    from serving.log_events import log_event
    from serving.service.auth import is_loopback, read_tokens
    from serving.service.config import ServiceConfig

    config = ServiceConfig(
        host=args.host,
        port=args.port,
        max_k=args.max_k,
        max_candidates=args.max_candidates,
        max_queries=args.max_queries,
        max_body=int(args.max_body_kb * 1024),
        limits=_limits(args),
        log=_log(args),
        console=_console(args),
        tokens=read_tokens(args.token_file) if args.token_file else None,
        metrics_here=args.metrics_port is None,
        allowed_hosts=args.allowed_host,
        access_log=args.access_log,
        live=args.admin_port is not None,
        devices=args.devices,
    )
    if config.tokens is None and not is_loopback(args.host):
        reason = f"whoever reaches {args.host} may use this service; see --token-file"
        log_event("open_to_all", logging.WARNING, host=args.host, reason=reason)
    return config


def _other_listeners(
    args: argparse.Namespace, plan: Plan, config: ServiceConfig, cache: CompileCache | None, sockets: ExitStack
) -> Listeners:
    """Those of metrics and of the administrator, whose sockets are bound at once and stay in `sockets`."""
    from contextlib import AsyncExitStack, asynccontextmanager

    from serving.admin.app import administered
    from serving.admin.listeners import create_metrics, open_listener
    from serving.http.server import bound
    from serving.service.auth import Tokens, hosts_of, read_tokens
    from serving.service.load_shedding import LoadShedder

    admin, admins, metrics = None, Tokens.of(), None
    if args.admin_port is not None:
        admins, admin = read_tokens(args.admin_token_file), sockets.enter_context(open_listener(args.admin_port))
        print(f"admin http://127.0.0.1:{admin.getsockname()[1]}", flush=True)
    if args.metrics_port is not None:
        metrics = sockets.enter_context(bound(args.metrics_host, args.metrics_port))  # listens when it is served
        print(f"metrics http://{args.metrics_host}:{metrics.getsockname()[1]}/metrics", flush=True)

    @asynccontextmanager
    async def listeners(service: Service) -> AsyncIterator[None]:
        if cache is not None:
            cache.keep()
        async with AsyncExitStack() as stack:
            if metrics is not None:
                hosts = hosts_of(args.metrics_host, None, args.allowed_host)
                shedder = LoadShedder(create_metrics(service.telemetry), service.telemetry, hosts=hosts)
                await stack.enter_async_context(service.extra_listener("metrics", shedder, 0, metrics))
            pairs = plan.named(service.pair(None)).pairs
            await stack.enter_async_context(
                administered(service, sources=pairs, listener=admin, tokens=admins, callers=config.tokens)
            )
            yield

    return listeners


def _end_threads(seconds: float, code: int) -> None:
    """Ends the process, with this code, if a load, a compilation or a call is still at work then. Nothing can interrupt
    XLA, Python waits for its threads at the end, and what they make is of no use any more: a kill may come at any
    moment too."""
    import logging
    import os
    import threading
    import time

    end = time.monotonic() + seconds
    threads = [t for t in threading.enumerate() if t is not threading.current_thread()]
    others = [t for t in threads if t.name == "dispatcher" or not t.daemon]
    for thread in others:
        thread.join(max(0.0, end - time.monotonic()))
    if any(thread.is_alive() for thread in others):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # `sys.exit` would wait for these threads, and nothing can interrupt XLA in them


def _limits(args: argparse.Namespace) -> ServiceLimits:
    from serving.limits import ServiceLimits

    return ServiceLimits(
        max_queue=args.max_queue,
        max_wait=args.max_wait_ms / 1e3,
        grace=args.grace_s,
        read=args.read_s,
        unread=args.unread_s,
        keep_alive=args.keep_alive_s,
        stuck=args.stuck_s,
        max_bodies=int(args.max_body_total_mb * 2**20),
        max_connections=args.max_connections,
    )


def _log(args: argparse.Namespace) -> LogSettings | None:
    from serving.parity.request_log import LogSettings

    if not args.log_requests:
        return None
    return LogSettings(args.log_requests, args.log_fraction, int(args.log_max_mb * 2**20))


def _console(args: argparse.Namespace) -> ConsoleSettings | None:
    from serving.console.console import ConsoleSettings

    if (args.console_beside or args.console_origin) and not args.console:
        raise ValueError("expected --console with --console-beside and --console-origin")
    return ConsoleSettings(args.console_beside, args.console_origin) if args.console else None
