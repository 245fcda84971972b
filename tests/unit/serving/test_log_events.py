"""The operational log: each line has time, level and event, as text or JSON; refusals do not fill it."""

from __future__ import annotations

import datetime
import json
import logging
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest

from serving.log_events import RefusedClients, address, configure, log_event

NASTY = 'a "quoted" = line\nwith\u2028breaks, \udc80 and \x1b[31m'


def some_events() -> None:
    log_event("load", outcome="done", path=Path("/a b"), ads=3, journal=None)
    log_event("odd", logging.WARNING, reason=NASTY)
    try:
        raise KeyError(NASTY)
    except KeyError as e:
        log_event("failed", logging.ERROR, error=e)
    logging.getLogger("library").warning("two\nlines")
    logging.getLogger("library").info("not shown")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("as a line", stacklevel=1)
    thread = threading.Thread(target=lambda: 1 // 0, name="worker")
    thread.start()
    thread.join()


EVENTS = ["load", "odd", "failed", "log", "log", "thread_died"]


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json")
    some_events()
    found: list[dict[str, Any]] = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in found] == EVENTS
    assert [line["level"] for line in found] == ["INFO", "WARNING", "ERROR", "WARNING", "WARNING", "ERROR"]
    assert all(datetime.datetime.fromisoformat(line["time"]).tzinfo for line in found)
    assert {"outcome": "done", "path": "/a b", "ads": 3}.items() <= found[0].items()
    assert "journal" not in found[0]
    assert found[1]["reason"] == NASTY
    assert "KeyError" in found[2]["traceback"]
    assert (found[3]["logger"], found[3]["message"]) == ("library", "two\nlines")
    assert "as a line" in found[4]["message"]
    assert (found[5]["thread"], "ZeroDivisionError" in found[5]["traceback"]) == ("worker", True)


def test_text_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure("text")
    some_events()
    lines = [line.split(" ", 3) for line in capsys.readouterr().err.split("\n")[:-1]]
    assert list(dict.fromkeys(line[2] for line in lines)) == list(dict.fromkeys(EVENTS))
    assert all(datetime.datetime.fromisoformat(line[0]).tzinfo for line in lines)
    assert lines[0][1:] == ["INFO", "load", 'outcome=done path="/a b" ads=3']
    assert json.loads(lines[1][3].removeprefix("reason=")) == NASTY
    assert lines[3][1:3] == ["ERROR", "failed"]
    assert lines[3][3].startswith("| Traceback")


def test_refused_clients_are_logged_once_a_second_for_each_reason(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json")
    times = iter((5.0, 5.5, 5.9, 6.1, 9.0, 9.0))
    refused = RefusedClients(every=1.0, clock=lambda: next(times))
    for port in range(1, 6):
        refused.log(("::1", port), "no token", 401)
    refused.log("", "slow head")
    found = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["client"], line["reason"], line.get("status"), line.get("not_logged")) for line in found] == [
        ("[::1]:1", "no token", 401, None),
        ("[::1]:4", "no token", 401, 2),
        ("[::1]:5", "no token", 401, None),
        ("unknown", "slow head", None, None),
    ]


def test_addresses() -> None:
    assert address(("10.0.0.1", 80)) == "10.0.0.1:80"
    assert address(("::1", 80, 0, 0)) == "[::1]:80"
    assert address("/run/socket") == "/run/socket"
    assert address(None) == "unknown"


def test_a_service_that_cannot_start_says_so_in_the_format_of_its_log(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tt_jax", "serve", f"--bundle={tmp_path}/none", "--index=i", "--port=0"]
    for form in ("json", "text"):
        done = subprocess.run([*command, f"--log-format={form}"], capture_output=True, text=True, check=False)
        (line,) = done.stderr.splitlines()
        assert done.returncode == 2
        assert f"{tmp_path}/none: expected a directory" in line
        if form == "json":
            assert {"event": "not_started", "level": "CRITICAL", "code": 2}.items() <= json.loads(line).items()
