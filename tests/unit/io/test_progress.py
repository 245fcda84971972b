"""A bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import re

import pytest

from tt_jax.io.progress import Progress


class Terminal(io.StringIO):
    """A stderr that people look at."""

    def isatty(self) -> bool:
        return True


def test_elsewhere_than_on_a_terminal_there_are_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("train", "step", total=10, done=4) as progress:
        progress.say("resumed")
        progress.advance(2)
        progress.show("loss 0.5")
    assert capsys.readouterr().err == "train: resumed\ntrain: step 6/10 loss 0.5\n"


def test_without_a_total_the_sum_is_told_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("prepare", "rows") as progress:
        assert list(progress.track(["ab", "cde"], len)) == ["ab", "cde"]
    assert re.fullmatch(r"prepare: 5 rows in \d+ s\n", capsys.readouterr().err)


def test_a_failed_run_and_one_of_many_processes_say_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TypeError), Progress("prepare", "rows") as progress:
        list(progress.track(["ab", 5], len))  # pyright: ignore[reportArgumentType]
    with Progress("train", "step", total=10, shown=False) as progress:
        progress.say("resumed")
        progress.show("loss 0.5")
    assert capsys.readouterr().err == ""


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    with Progress("train", "step", total=10, done=4) as progress:
        progress.advance(6)
        progress.show("loss 0.5")
        progress.say("done")
    assert re.search(r"train: 100%.* 10/10 .*loss 0.5", terminal.getvalue())
    assert "train: done\n" in terminal.getvalue()
