"""Flags of several verbs that read logs: `--skip-unknown`; `--runner` and `--address`, of those that run on Ray too."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, nullcontext
from typing import Any


def add_runner_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    parser.add_argument(
        "--runner", choices=("stream", "ray"), default="stream",
        help="where the work is done: in this process, or by the workers of a Ray cluster, with the same result",
    )  # fmt: skip
    parser.add_argument(
        "--address",
        help="of a running Ray cluster, as HOST:6379 or auto, whose nodes see the same files at the same paths; "
        "without, one is started on this machine, and stopped in the end",
    )


def add_skip_unknown(parser: argparse.ArgumentParser) -> None:
    """Adds the flag."""
    parser.add_argument(
        "--skip-unknown", action="store_true",
        help="leave out, and list, the files of a directory that cannot be read; without, they are an error",
    )  # fmt: skip


def runner_of(args: argparse.Namespace) -> AbstractContextManager[Any]:
    """The `Runner` that the flags ask for, inside a `with`. Raises ValueError for an address that nothing uses."""
    from input_pipeline.runner import Local, OnRay

    if args.runner == "ray":
        return OnRay(args.address or "")
    if args.address is not None:
        raise ValueError(f"--address={args.address}: expected --runner=ray beside it")
    return nullcontext(Local())
