"""Ads split over 8 simulated devices: the answers of one device, bit for bit, while ads change; no vector moves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.collectives import collectives
from tests.support.cli import Call
from tests.support.paths import ROOT
from tests.support.sharded_ads import CASES, LISTS, NEW, K

pytestmark = [pytest.mark.process, pytest.mark.devices]

TASKS = 3  # of the tiny model
ANSWERS = ("all", "listed", "scores")
LISTED = {1: LISTS, 8: 1024}  # queries -> most ads of a list


@pytest.fixture(scope="module")
def outcome(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `tests.support.sharded_ads` printed, and the arrays that it saved."""
    saved = tmp_path_factory.mktemp("sharded_ads") / "out.npz"
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.support.sharded_ads", str(saved), str(tiny_bundle)]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True, timeout=600)
    with np.load(saved) as arrays:
        return {"facts": json.loads(done.stdout), "arrays": dict(arrays)}


def _assert_same(outcome: dict[str, Any], name: str, prefix: str) -> int:
    arrays, keys = outcome["arrays"], [key for key in outcome["arrays"] if key.startswith(f"1|{prefix}")]
    for key in keys:
        np.testing.assert_array_equal(arrays[name + key.removeprefix("1")], arrays[key], err_msg=key)
    return len(keys)


@pytest.mark.parametrize(("tasks", "dtype", "queries"), CASES)
def test_the_best_of_all_devices_are_the_best_of_one(
    outcome: dict[str, Any], tasks: int, dtype: str, queries: int
) -> None:
    """Most of these ads are equal to others, on other devices too."""
    assert _assert_same(outcome, "8", f"{tasks} {dtype} {queries} ") == 9
    utility = outcome["arrays"][f"1|{tasks} {dtype} {queries} utility_Bk of 2000"]
    assert len(np.unique(utility[0])) < 0.6 * utility.shape[1]


@pytest.mark.parametrize("name", ["3", "8"])
def test_a_scorer_answers_as_one_of_one_device_while_ads_change(outcome: dict[str, Any], name: str) -> None:
    """All ads, lists and scores, as it was loaded and after each set of changes, one of which needs more places."""
    assert _assert_same(outcome, name, "live ") == (1 + len(NEW)) * len(ANSWERS) * 3
    ids = [outcome["arrays"][f"{name}|live {step} scores ids"] for step in range(1 + len(NEW))]
    assert not any(np.array_equal(a, b) for a, b in pairwise(ids))


@pytest.mark.parametrize("name", ["3", "8"])
def test_the_ads_that_may_serve_are_those_of_one_device(outcome: dict[str, Any], name: str) -> None:
    assert _assert_same(outcome, name, "targeted ") == 2 * 2 * 3
    assert len(outcome["arrays"][f"{name}|targeted 0 all ids"]) > 40


@pytest.mark.parametrize("name", ["1", "3", "8"])
def test_every_device_has_its_part_and_a_like_scorer_the_same_programs(outcome: dict[str, Any], name: str) -> None:
    facts = outcome["facts"][name]
    assert set(facts["of_a_device"]) == {facts["places"] // int(name)}
    assert facts["shared"]


@pytest.mark.parametrize("name", ["3", "8"])
def test_only_the_best_of_each_device_and_the_scores_of_lists_cross_devices(outcome: dict[str, Any], name: str) -> None:
    """Position, utility and probabilities of k ads of a device; the utilities of a list, and probabilities of its best;
    both of the list of which scores are wanted. When ads change, or are embedded: nothing."""
    devices, hlo = int(name), outcome["facts"][name]["hlo"]
    assert {key.split()[0] for key in hlo} == {"all", "candidates", "score", "embed", "update"}
    for key, text in hlo.items():
        kind, queries = key.split()
        b = int(queries)
        found = {(c.kind, c.devices): 0 for c in collectives(text)}
        for c in collectives(text):
            found[c.kind, c.devices] += sum(prod(dims) for _, dims in c.shapes)
        want = {
            "all": {("all-gather", devices): b * devices * K * (2 + TASKS)},
            "candidates": {("all-reduce", devices): b * (LISTED.get(b, 0) + K * TASKS)},
            "score": {("all-reduce", devices): b * 1024 * (1 + TASKS)},
        }
        assert found == want.get(kind, {}), key


def test_more_devices_than_there_are_are_refused(call: Call, tiny_bundle: Path, tiny_index: Path) -> None:
    error = call.refused("serve", f"--bundle={tiny_bundle}", f"--index={tiny_index}", "--devices=2", "--port=0")
    assert "devices: expected 1..1, as JAX finds 1 cpu device here, got 2" in error
