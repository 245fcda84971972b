"""The same results, and the same error, wherever the work is done; also when a worker is killed in the middle of it."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from input_pipeline.readers import ReadError
from input_pipeline.runner import Local, OnRay, RunnerError
from tt_jax.features.columns import EncodeError

pytestmark = pytest.mark.ray


def square(item: int) -> tuple[int, int]:
    """Late ones first."""
    time.sleep(0.02 * (5 - item % 5))
    return item * item, os.getpid()


def fails(item: tuple[int, str]) -> int:
    """The second in order is the last in time."""
    number, kind = item
    if number == 1:
        time.sleep(0.5)
        raise {"read": ReadError("a.csv: row 3: bad"), "os": FileNotFoundError(2, "No such file", "b.csv"),
               "odd": EncodeError("age", 4, "no number")}[kind]  # fmt: skip
    if number > 1:
        raise ReadError("another")
    return number


def dies_once(folder: Path) -> int:
    """The first time it kills its worker, half way."""
    if not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def dies(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_results_are_in_order_and_from_two_workers(on_ray: OnRay) -> None:
    items = range(16)
    found = list(on_ray.map(square, items))
    assert [value for value, _ in found] == [value for value, _ in Local().map(square, items)]
    assert len({process for _, process in found} - {os.getpid()}) == on_ray.workers == 2
    assert list(on_ray.map(square, [])) == []


@pytest.mark.parametrize(
    ("kind", "type_", "text"),
    [
        ("read", ReadError, "a.csv: row 3: bad"),
        ("os", FileNotFoundError, "[Errno 2] No such file: 'b.csv'"),
        ("odd", RuntimeError, "EncodeError: column 'age', row 4: no number"),  # it cannot be pickled, its text can
    ],
)
def test_the_first_error_in_order_is_raised_after_the_results_before_it(
    kind: str, type_: type[Exception], text: str, on_ray: OnRay
) -> None:
    found = []
    with pytest.raises(type_) as error:
        found.extend(on_ray.map(fails, [(i, kind) for i in range(6)]))
    assert (str(error.value), found) == (text, [0])
    assert "in fails" in error.value.__notes__[0]  # where, for TT_JAX_TRACEBACK=1
    with pytest.raises((ReadError, FileNotFoundError, EncodeError)) as here:
        list(Local().map(fails, [(i, kind) for i in range(6)]))
    assert kind == "odd" or (type(here.value), str(here.value)) == (type_, text)


def test_the_work_of_a_killed_worker_is_done_by_another(on_ray: OnRay, tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / str(i)).mkdir()
    (tmp_path / "0" / "died").touch()
    assert len(list(on_ray.map(dies_once, sorted(tmp_path.iterdir())))) == 4
    assert all((folder / "died").exists() for folder in tmp_path.iterdir())


def test_work_that_kills_every_worker_ends_in_one_line(on_ray: OnRay) -> None:
    with pytest.raises(RunnerError, match=r"^Ray: work was tried 4 times and failed"):
        list(on_ray.map(dies, [0]))


def test_without_a_cluster_or_without_ray_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunnerError, match=r"^--address=127\.0\.0\.1:1: not reached: .*refused"), OnRay("127.0.0.1:1"):
        pass
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RunnerError, match=r"--runner=ray needs ray; pip install 'tt-jax\[ray\]'"), OnRay():
        pass
