"""A service with an admin listener, in this process, for the tests of what its journal keeps."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from litestar.testing import TestClient

from serving.admin.app import create_admin
from serving.admin.updates import LiveUpdates
from serving.index.ad_index import AdIndex, index_table
from serving.index.change_set import IndexVersion
from serving.index.compaction import Compacted
from serving.index.delta import Delta, DeltaError
from serving.scorer import Scorer
from serving.scorer_updates import Sources, load
from serving.service.app import create_app
from serving.service.config import ServiceConfig
from tests.support import tiny
from tests.support.service_calls import some_queries
from tt_jax.bundle.reader import Bundle

MAX_K = 20
TOKEN = "a-token-of-the-tests"
QUERY = some_queries(1)[0]
Post = Callable[[str, dict[str, Any]], httpx.Response]


@contextmanager
def serving(sources: Sources, like: Scorer, **options: Any) -> Iterator[tuple[Any, Post]]:
    """A client of a service of these, and what posts to its admin listener. `options`: of `create_app`."""
    scorer = load(sources.bundle, sources.index, sources.deltas, sources.journal, max_k=MAX_K, live=True, like=like)
    app = create_app(scorer, ServiceConfig(**options))
    live = LiveUpdates(app.state.service.batcher, app.state.service.telemetry, sources, ads=True)
    with TestClient(app) as client, TestClient(create_admin(app.state.service, live)) as admin:
        yield client, lambda path, body: admin.post(path, content=json.dumps(body))
    live.close()


def changed(answer: httpx.Response) -> dict[str, Any]:
    """The status after what succeeded."""
    assert answer.status_code == 200, answer.text
    return answer.json()


def some_ids(index: Path) -> list[int]:
    """Of the ads of an index."""
    return [int(ad) for ad in AdIndex.load(index).ids]


def other_index(bundle: Path, out: Path, seed: int = 3) -> Path:
    """An index of 200 ads, others than those of the tiny one but for some ids, made by this bundle."""
    index_table(Bundle.load(bundle), tiny.ads_table(np.random.default_rng(seed), 200)).save(out)
    return out


def versions_in(journal: Path, index_id: str) -> list[str]:
    """Of an index, and those that its records lead to, in their order. Without the lock of the journal."""
    for _ in range(100):
        with contextlib.suppress(FileNotFoundError, DeltaError):  # a compaction removed what was just listed
            return _versions_in(journal, index_id)
        time.sleep(0.05)
    return _versions_in(journal, index_id)


def _versions_in(journal: Path, index_id: str) -> list[str]:
    folder, found = journal / index_id, [IndexVersion.of(index_id)]
    names = sorted(path.name for path in folder.glob("[0-9c]*"))
    if compacted := [name for name in names if name.startswith("compacted-")]:
        chains = Compacted.load(folder / compacted[-1]).chains
        found += [IndexVersion(index_id, i, bytes(chain).hex()) for i, chain in enumerate(chains, 1)]
    found += [Delta.load(folder / name).after for name in names if name.isdigit() and int(name) >= len(found)]
    assert [version.sequence for version in found] == list(range(len(found)))
    return [str(version) for version in found]
