"""Where work is done: in this process, or by the workers of a Ray cluster. The results are the same, and so are errors.

On Ray an item is a task. Not Ray Data, which was tried (2.60): it goes on for ever with work that kills each worker, as
the options that would bound this are about to be removed.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import pickle
import socket
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from input_pipeline.sources.notices import report, reported
from tt_jax.io.extras import missing_package

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")

RETRIES = 3  # of work whose worker died
_AHEAD = 4  # items submitted for each worker, so that one that takes long does not leave the others idle


class RunnerError(ValueError):
    """Work that could not be done for want of Ray, of its cluster, or of workers that live."""


class Runner(Protocol):
    """Does a function's work on items.

    Attributes:
      workers: how many items are worked on at a time.
    """

    workers: int

    def map(self, work: Callable[[I], R], items: Iterable[I]) -> Iterator[R]:
        """The results, in the order of the items, wherever they were worked on.

        Args:
          work: a function at the top of a module. It may be called again with an item whose worker died, even while
            that one is still at it, so what it writes has a name of its own or is the same each time.
          items: what it is called with. They and the results are pickled.

        Raises what `work` raises first, in the order of the items, or `RunnerError`.
        """
        ...


class Local:
    """Here, item by item, each when its result is asked for."""

    workers = 1

    def map(self, work: Callable[[I], R], items: Iterable[I]) -> Iterator[R]:
        """See `Runner`."""
        return map(work, items)


class OnRay:
    """On a Ray cluster, inside a `with`. The workers import this project and see the driver's files at its paths."""

    def __init__(self, address: str = "", workers: int | None = None) -> None:
        """`address`: of a running cluster; "" starts one on this machine, of `workers` processes (default: its cores),
        and stops it in the end."""
        self.workers = workers or 0
        self._address = address

    def __enter__(self) -> OnRay:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ModuleNotFoundError as e:
            raise RunnerError(f"--runner=ray {missing_package(e)}") from None
        logging.getLogger("ray").setLevel(logging.ERROR)
        own: dict[str, Any] = {"num_cpus": self.workers or None, "include_dashboard": False}
        try:
            _require_listener(self._address)  # Ray would wait for minutes
            ray.init(
                self._address or "local", configure_logging=False, log_to_driver=False, **({} if self._address else own)
            )
        except Exception as e:  # each kind of failure has a kind of error
            where = f"--address={self._address}" if self._address else "a Ray cluster on this machine"
            raise RunnerError(f"{where}: not reached: {_line(e)}") from e
        self.workers = int(ray.cluster_resources().get("CPU", 0)) or 1
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        with _told_on_stderr():
            ray.shutdown()

    def map(self, work: Callable[[I], R], items: Iterable[I]) -> Iterator[R]:
        """See `Runner`."""
        import ray
        import ray.exceptions

        done = ray.remote(num_cpus=1, max_retries=RETRIES, scheduling_strategy="SPREAD")(_answer)
        rest, folder = iter(items), os.getcwd()
        submit = lambda n: [done.remote(work, item, folder) for item in itertools.islice(rest, n)]  # noqa: E731
        answers = deque(submit(_AHEAD * self.workers))  # not all: what is submitted is done, error or not
        while answers:
            try:
                with _told_on_stderr():
                    error, result, lines = pickle.loads(ray.get(answers.popleft()))
            except ray.exceptions.RayError as e:
                raise RunnerError(f"Ray: work was tried {RETRIES + 1} times and failed: {_line(e)}") from e
            for line in lines:
                report(line)
            if error is not None:
                raise error
            answers.extend(submit(1))
            yield result


def groups_of(files: Sequence[str] | None, count: int) -> list[list[str] | None]:
    """Consecutive files in at most `count` groups of about the same bytes, remote files counting alike; of None, it."""
    if files is None:
        return [None]
    sizes = [os.path.getsize(f) if os.path.isfile(f) else 1 for f in files]
    total, before = max(1, sum(sizes)), 0
    groups: dict[int, list[str] | None] = {}
    for file, size in zip(files, sizes, strict=True):
        group = groups.setdefault(min(count - 1, (2 * before + size) * count // (2 * total)), [])
        assert group is not None
        group.append(file)
        before += size
    return list(groups.values())


def _require_listener(address: str) -> None:
    """Raises OSError if nothing listens at `HOST:PORT`."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.rpartition("/")[2].strip("[]"), int(port)), timeout=10).close()


def _answer(work: Callable[[Any], Any], item: Any, folder: str) -> bytes:
    """Runs in a worker. An error is an answer too: Ray would raise it with a traceback, and as another type."""
    try:
        _go_to(folder)
        answer = None, work(item)
    except Exception as e:
        answer = portable(e), None
    return pickle.dumps((*answer, reported()))


def _go_to(folder: str) -> None:
    """Paths, and messages that name them, then mean in a worker what they mean at the prompt."""
    try:
        os.chdir(folder)
    except OSError as e:
        where = socket.gethostname()
        raise RunnerError(
            f"{folder}: not there on {where}; all nodes are to see the same files at the same paths"
        ) from e


def portable(error: Exception) -> Exception:
    """The error, with the worker's traceback as a note, which the prompt does not show; its text if it is not to be
    pickled."""
    note = "in a worker of Ray:\n" + "".join(traceback.format_exception(error))
    try:
        rebuilt = pickle.loads(pickle.dumps(error))
        if str(rebuilt) != str(error):
            raise ValueError
    except Exception:
        rebuilt = RuntimeError(f"{type(error).__name__}: {error}")
    rebuilt.add_note(note)
    return rebuilt


def _told_on_stderr() -> contextlib.AbstractContextManager[Any]:
    """Ray tells of workers that died where results are printed."""
    return contextlib.redirect_stdout(sys.stderr)


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
