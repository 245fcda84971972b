"""Several devices against one: the same numbers, and nothing on the wire that need not be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from math import prod
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from benchmarks.collectives import Collective, collectives
from benchmarks.sharding import minimum
from tests.support import tiny
from tests.support.paths import ROOT
from tests.support.sharded_runs import CONFIG, RUNS, run_config
from tests.support.steps import ROWS, fresh
from tt_jax.config import ConfigError, ShardingConfig
from tt_jax.models.two_tower import TwoTower
from tt_jax.parallel.sharding import DEVICE, HOST, make_mesh, place_tables, state_specs
from tt_jax.training.loop import train
from tt_jax.training.trained import load_trained

pytestmark = [pytest.mark.process, pytest.mark.devices]

MODEL = TwoTower(tiny.SCHEMA, CONFIG.model, "f32")
SLOTS = {"dim8": 7, "dim4": 6}  # of both towers
# The devices add the batch's terms in another order, nothing else differs: each sum is off by some roundings of
# 2**-24, relative to its terms. Over 4 steps 32 of them, relative to an array's largest value, are allowed; 8 are seen.
TOLERANCE = 32 * 2.0**-24


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory, prepared_path: Path) -> dict[str, Any]:
    """What `tests.support.sharded_runs` printed, and the arrays that it saved."""
    path = tmp_path_factory.mktemp("sharded")
    # Unoptimised machine code: it compiles in half the time.
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "tests.support.sharded_runs",
        "runs.npz",
        str(prepared_path),
        "work",
    ]
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {
        **json.loads(done.stdout.splitlines()[-1]),
        "arrays": dict(np.load(path / "runs.npz")),
        "workdir": path / "work",
    }


@pytest.mark.parametrize(
    ("one_device", "name"), [*(("1", name) for name in RUNS), ("mtmd 1", "mtmd 2"), ("dynamic 1", "dynamic 2x4")]
)
def test_every_mesh_gives_the_numbers_of_one_device(outcome, one_device, name):
    arrays = outcome["arrays"]
    keys = [key.removeprefix(f"{one_device}|") for key in arrays if key.startswith(f"{one_device}|")]
    assert {"losses", "logits", "tables/dim8", "accumulators/dim4"} < set(keys)
    for key in keys:
        one, many = arrays[f"{one_device}|{key}"], arrays[f"{name}|{key}"]
        # While most ids of a history have the same row, its weights have next to no gradient, and Adam scales rounding.
        allowed = TOLERANCE * (32 if one_device == "dynamic 1" and "recency" in key else 1)
        np.testing.assert_allclose(many, one, rtol=0, atol=allowed * np.abs(one).max(), err_msg=key)
    start = np.asarray(fresh(CONFIG).tables["dim8"])
    assert np.abs(arrays["1|tables/dim8"] - start).max() > 0.01


def test_every_device_admits_the_same_ids_as_one(outcome):
    arrays = outcome["arrays"]
    whole = [key for key in arrays if key.startswith("dynamic 1|") and arrays[key].dtype == np.int32]
    assert {"dynamic 1|tables/keys/user", "dynamic 1|admissions/ad_id/counters"} < set(whole)
    for key in whole:
        np.testing.assert_array_equal(arrays[key.replace(" 1|", " 2x4|")], arrays[key], err_msg=key)
    assert arrays["dynamic 1|admissions/ad_id/admitted"] > 5


def test_tables_are_split(outcome):
    parts = {name: (facts["placements"], facts["part"]) for name, facts in outcome["runs"].items()}
    assert parts == {
        "2": ({"dim8": "columns", "dim4": "columns"}, [150, 4]),
        "4": ({"dim8": "columns", "dim4": "columns"}, [150, 2]),
        "8": ({"dim8": "columns", "dim4": "replicated"}, [150, 1]),
        "2x4": ({"dim8": "columns", "dim4": "columns"}, [150, 2]),
        "2x4 rows+columns": ({"dim8": "rows+columns", "dim4": "columns"}, [75, 2]),
        "2x2 rows": ({"dim8": "rows", "dim4": "replicated"}, [75, 8]),
    }


def elements(found: list[Collective], kind: str, dtype: str = "f32") -> int:
    return sum(prod(dims) for c in found if c.kind == kind for d, dims in c.shapes if d == dtype)


@pytest.mark.parametrize("name", RUNS)
def test_only_what_must_crosses_devices(outcome, name):
    facts = outcome["runs"][name]
    found = collectives(facts["hlo"])
    assert all(c.at_top for c in found)  # once a step, not once a chunk
    table_rows = {150, 75, 13}
    assert not any(table_rows & set(dims) for c in found for _, dims in c.shapes)
    # What is all-reduced: gradients of parameters, squares of column-split tables' rows, 4 sums for each of 3 tasks and
    # their labels' weight, which is one of the sums: XLA may see that.
    parameters = sum(prod(p.shape) for p in MODEL.shapes()[0].values())
    squares = sum(ROWS * SLOTS[t] for t, p in facts["placements"].items() if "columns" in p)
    assert elements(found, "all-reduce") - parameters - squares in (3 * 4, 3 * 5)
    for c in collectives(facts["hlo_predict"]):
        assert c.kind in ("all-gather", "all-to-all", "reduce-scatter")
        assert c.kind != "all-gather" or c.shapes[0][0] == "s32"
        assert not any(table_rows & set(dims) for _, dims in c.shapes)


@pytest.mark.parametrize("name", ["2", "4"])
def test_columns_send_no_more_than_ids_and_every_value_once(outcome, name):
    found, least = collectives(outcome["runs"][name]["hlo"]), minimum(MODEL, ROWS, int(name))
    assert {c.kind for c in found} == {"all-gather", "all-to-all", "all-reduce"}
    sent = {kind: sum(c.bytes_sent for c in found if c.kind == kind) for kind in ("all-gather", "all-to-all")}
    assert sent == {"all-gather": least["ids"], "all-to-all": least["values"] + least["value_gradients"]}


def test_the_loop_on_a_mesh_does_what_it_does_on_one_device(outcome, prepared_path, tmp_path):
    report = train(run_config(str(prepared_path), "1x1"), tmp_path).facts.report
    assert report is not None
    for task, metrics in report["overall"].items():
        found = outcome["report"]["overall"][task]
        assert found.keys() == metrics.keys()
        for name, value in metrics.items():
            assert found[name] == (None if value is None else pytest.approx(value, rel=1e-4)), (task, name)
    # The checkpoint of eight devices, read by one.
    one, many = load_trained(tmp_path), load_trained(outcome["workdir"])
    assert one.step == many.step > 4
    for key, value in (one.params | one.tables).items():
        np.testing.assert_allclose(
            (many.params | many.tables)[key], value, rtol=0, atol=1e-5 * np.abs(value).max(), err_msg=key
        )


# The reader of programs.

HLO = """HloModule jit_step

%body (p: f32[2]) -> f32[2] {
  ROOT %r.1 = f32[2]{0} all-reduce(%p), channel_id=1, replica_groups={{0,1,2,3}}, to_apply=%add
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %g = s32[16,3]{1,0} all-gather(%a), channel_id=2, replica_groups={{0,1},{2,3}}, dimensions={0}
  %t = (bf16[4]{0}, /*index=1*/bf16[4]{0}) all-to-all(%a, %a), replica_groups=[2,2]<=[4]
  %s = (f32[4]{0}, f32[16]{0}) all-gather-start(%a), replica_groups=[1,4]<=[4], dimensions={0}
  %d = f32[16]{0} all-gather-done(%s)
  ROOT %x = f32[2]{0} reduce-scatter(%a), replica_groups={{0,1,2,3}}, dimensions={0}, to_apply=%add
}
"""


def test_collectives_of_a_program_are_found_and_weighed():
    found = collectives(HLO)
    assert [(c.kind, c.devices, c.at_top, c.bytes_sent) for c in found] == [
        ("all-reduce", 4, False, 2 * 0.75 * 8),
        ("all-gather", 2, True, 0.5 * 16 * 3 * 4),
        ("all-to-all", 2, True, 0.5 * 2 * 4 * 2),
        ("all-gather", 4, True, 0.75 * 16 * 4),
        ("reduce-scatter", 4, True, 3 * 2 * 4),
    ]
    with pytest.raises(ValueError, match="no replica groups"):
        collectives(HLO.replace("replica_groups=[1,4]<=[4]", "replica_groups={}"))


# Rules.

MESH = AbstractMesh((2, 4), (HOST, DEVICE))


def test_a_table_is_placed_by_size_and_mesh():
    shapes = {"big": (10**9, 16), "wide": (1000, 64), "odd": (10**9, 6), "small_odd": (999, 6)}
    found = place_tables(MESH, shapes, ShardingConfig())
    assert found == {"big": "rows+columns", "wide": "columns", "odd": "rows", "small_odd": "replicated"}
    one_host = place_tables(AbstractMesh((1, 8), (HOST, DEVICE)), shapes, ShardingConfig())
    assert one_host == {"big": "columns", "wide": "columns", "odd": "replicated", "small_odd": "replicated"}
    assert place_tables(MESH, shapes, ShardingConfig(split_rows_gb=1e3))["big"] == "columns"


def test_the_first_rule_that_matches_places_a_table():
    rules = ShardingConfig(tables=("b.*=replicated", "big=rows", ".*=rows+columns"))
    assert place_tables(MESH, {"big": (10, 8), "a": (10, 8)}, rules) == {"big": "replicated", "a": "rows+columns"}


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("dim9=rows", "no table is named 'dim9'; did you mean 'dim"),
        ("dim8=colums", "got 'dim8=colums'; did you mean 'columns'"),
        ("dim8", "expected REGEX=PLACEMENT, got 'dim8'"),
        ("dim(=rows", "no regular expression"),
        ("dim4=rows", "'dim4': 13 rows cannot be split over 2 hosts; make a hash_size of its features 1 larger"),
        ("dim6=columns", "'dim6': 6 columns cannot be split over 4 devices"),
    ],
)
def test_a_rule_that_cannot_be_followed_is_refused(rule, says):
    with pytest.raises(ConfigError) as e:
        place_tables(MESH, {"dim4": (13, 4), "dim6": (12, 6), "dim8": (150, 8)}, ShardingConfig(tables=(rule,)))
    assert says in str(e.value)


@pytest.mark.parametrize("shape", ["2x4", "x1", "1", "0x1", "1x1x1"])
def test_a_mesh_that_does_not_fit_the_devices_is_refused(shape):
    with pytest.raises(ConfigError, match=r"config\.sharding\.mesh: expected HOSTSxDEVICES of 1 devices"):
        make_mesh(shape, jax.devices()[:1])


def test_every_leaf_of_the_state_has_a_rule_of_its_own():
    state = fresh(CONFIG)
    specs = state_specs(state, {"dim8": "rows+columns", "dim4": "columns"})
    assert jax.tree.structure(specs) == jax.tree.structure(state)
    assert specs.tables == {"dim8": PartitionSpec(HOST, DEVICE), "dim4": PartitionSpec(None, DEVICE)}
    assert specs.accumulators == {"dim8": PartitionSpec(HOST), "dim4": PartitionSpec(None)}
    assert {*jax.tree.leaves((specs.step, specs.params, specs.optimizer, specs.metrics))} == {PartitionSpec()}
    with pytest.raises(ValueError, match="no placement rule covers 'tables/dim4'"):
        state_specs(state, {"dim8": "columns"})
    with pytest.raises(ValueError, match="no placement rule covers 'momenta/dim8'"):
        state_specs({"momenta": {"dim8": jnp.zeros(3)}}, {"dim8": "columns"})
