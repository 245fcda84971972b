"""Requests that a service logged, held against a prepared set."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from litestar.testing import TestClient

from serving.parity.request_log import LogSettings
from serving.scorer import Scorer
from serving.service.app import create_app
from serving.service.config import ServiceConfig
from tests.support import tiny
from tests.support.service_calls import post
from tt_jax.cli.parity import Expected, add_arguments, compare, load

QUERIES = 240


Line = dict[str, Any]


@pytest.fixture(scope="module")
def logged(tiny_bundle: Path, tiny_index: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Line]:
    """Lines that the service wrote: queries like those of the training rows."""
    path = tmp_path_factory.mktemp("logged") / "log.jsonl"
    scorer = Scorer.load(tiny_bundle, tiny_index, max_k=20, warm=False)
    queries = tiny.queries(np.random.default_rng(11), QUERIES)
    with TestClient(create_app(scorer, ServiceConfig(log=LogSettings(path, fraction=1.0)))) as client:
        for first in range(0, QUERIES, 48):
            post(client, {"queries": queries[first : first + 48], "k": 3})
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def expected(tiny_bundle: Path, tiny_index: Path, prepared_path: Path) -> Expected:
    """What the logs are held against, with the default thresholds."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    paths = (f"--bundle={tiny_bundle}", f"--index={tiny_index}", f"--data={prepared_path}", "--requests=unread")
    return load(parser.parse_args(paths))


@pytest.fixture
def parity(expected: Expected, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """The report on lines; keywords replace thresholds, and `ignored` what is ignored."""

    def run(lines: list[Line], ignored: str = "", **thresholds: float) -> dict[str, Any]:
        path = written(tmp_path, lines)
        allowed = {**expected.thresholds, **thresholds}
        given = dataclasses.replace(expected, thresholds=allowed, ignored=[n for n in [ignored] if n])
        return compare(given, [path])

    return run


def written(folder: Path, lines: list[Line] | str) -> Path:
    text = lines if isinstance(lines, str) else "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "log.jsonl").write_text(text)
    return folder / "log.jsonl"


def changed(lines: list[Line], **features: Any) -> list[Line]:
    """The lines with other features; a function is called with the number of the line."""
    made = lambda v, i: v(i) if callable(v) else v  # noqa: E731
    return [{**line, "query": {**line["query"], **{n: made(v, i) for n, v in features.items()}}}
            for i, line in enumerate(lines)]  # fmt: skip
