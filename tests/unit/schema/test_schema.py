"""The schema: what it refuses, its JSON, the layout derived from it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from tests.support import tiny
from tt_jax.schema import MAX_TABLE_ROWS, Feature, Schema, SchemaError, Task, array_specs

NUMBER = Feature("n", "numeric", "query")
IDS = Feature("c", "categorical", "ad", hash_size=10)
TASK = Task("click", "clicked")


def schema(*features: Feature, tasks: tuple[Task, ...] = (TASK,), **changes: Any) -> Schema:
    """A minimal valid schema with further features."""
    values = {"scenario": "s", "scenarios": ("a",), "ad_id": "id", **changes}
    return Schema(**{"name": "mini", "features": (NUMBER, IDS, *features), "tasks": tasks, **values})


def ids(**changes: Any) -> Feature:
    return Feature(**{"name": "x", "kind": "categorical", "tower": "query", "hash_size": 10, **changes})


def number(**changes: Any) -> Feature:
    return Feature(**{"name": "x", "kind": "numeric", "tower": "query", **changes})


def test_json_round_trip_is_exact_and_canonical():
    text = tiny.SCHEMA.to_json()
    again = Schema.from_json(text)
    assert again == tiny.SCHEMA
    assert again.to_json() == text
    assert again.fingerprint == tiny.SCHEMA.fingerprint
    shuffled = json.dumps(dict(reversed(json.loads(text).items())))
    assert Schema.from_json(shuffled).to_json() == text


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"scenarios": (*tiny.SCENARIOS, "more")},
        {"tasks": tiny.SCHEMA.tasks[:2]},
        {"features": tiny.SCHEMA.features[::-1]},
    ],
)
def test_every_change_changes_the_fingerprint(change):
    assert dataclasses.replace(tiny.SCHEMA, **change).fingerprint != tiny.SCHEMA.fingerprint


def test_a_schema_stored_before_there_were_other_ways_to_a_row_keeps_its_fingerprint():
    before = dataclasses.replace(schema(), empty_is_missing=False)
    assert before.fingerprint == "9d1a5468f3a43cccd12309eb3bdcfb157bc78413ccc1e302b79c80701c3c0893"
    assert Schema.from_json(before.to_json()) == before
    found = schema(ids(hash_size=0, dynamic_rows=8), ids(name="y", min_count=3))
    assert Schema.from_json(found.to_json()) == found


def test_defaults_may_be_left_out_of_the_json():
    data = {
        "name": "mini",
        "features": [
            {"name": "n", "kind": "numeric", "tower": "query"},
            {"name": "c", "kind": "categorical", "tower": "ad", "hash_size": 10},
        ],
        "tasks": [{"name": "click", "label": "clicked"}],
        "scenario": "s",
        "scenarios": ["a"],
        "ad_id": "id",
    }
    assert Schema.from_json(json.dumps(data)) == dataclasses.replace(schema(), empty_is_missing=False)


def test_integers_in_the_json_become_the_floats_of_the_fields():
    data = json.loads(schema().to_json())
    data["features"][0]["mean"] = 3
    assert Schema.from_json(json.dumps(data)) == schema(features=(dataclasses.replace(NUMBER, mean=3.0), IDS))


@pytest.mark.parametrize(
    ("path", "value", "names"),
    [
        (("scenarioz",), ["a"], ("schema", "'scenarioz'", "did you mean 'scenario")),
        (("features", 0, "hashsize"), 3, ("schema.features[0]", "'hashsize'", "did you mean 'hash_size'")),
        (("tasks", 0, "weigth"), 3, ("schema.tasks[0]", "'weigth'", "did you mean 'weight'")),
        (("name",), 3, ("schema.name", "expected str", "got 3")),
        (("ad_id",), None, ("schema.ad_id", "expected str", "got None")),
        (("scenarios",), "a", ("schema.scenarios", "expected a list of str", "got 'a'")),
        (("scenarios",), [1], ("schema.scenarios[0]", "expected str", "got 1")),
        (("features",), {"n": {}}, ("schema.features", "expected a list of Feature", "got {'n': {}}")),
        (("features",), "n", ("schema.features", "expected a list of Feature", "got 'n'")),
        (("features", 1), "n", ("schema.features[1]", "expected a group of keys", "got 'n'")),
        (("features", 0, "mean"), "3", ("schema.features[0].mean", "expected float", "'3'")),
        (("features", 0, "indicator"), 1, ("schema.features[0].indicator", "expected bool", "got 1")),
        (("features", 0, "default"), True, ("schema.features[0].default", "got True")),
        (("features", 0, "kind"), 4, ("schema.features[0].kind", "4 is none of categorical, bag")),
        (("features", 1, "hash_size"), 10.0, ("schema.features[1].hash_size", "expected int", "got 10.0")),
        (("features", 1, "hash_size"), True, ("schema.features[1].hash_size", "expected int", "got True")),
        (("features", 1, "vocabulary"), [1.5], ("schema.features[1].vocabulary[0]", "expected str | int", "got 1.5")),
        (
            ("features", 1, "vocabulary"),
            [False],
            ("schema.features[1].vocabulary[0]", "expected str | int", "got False"),
        ),
    ],
)
def test_json_is_read_strictly(path, value, names):
    data = json.loads(schema().to_json())
    node = data
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    with pytest.raises(SchemaError) as error:
        Schema.from_json(json.dumps(data))
    for name in names:
        assert name in str(error.value)


@pytest.mark.parametrize(
    ("path", "where"),
    [(("ad_id",), "schema"), (("features", 1, "tower"), "schema.features[1]"), (("tasks",), "schema")],
)
def test_a_missing_key_of_the_json_is_named(path, where):
    data = json.loads(schema().to_json())
    node = data
    for key in path[:-1]:
        node = node[key]
    del node[path[-1]]
    with pytest.raises(SchemaError) as error:
        Schema.from_json(json.dumps(data))
    assert str(error.value) == f"{where}: missing key {path[-1]!r}"


@pytest.mark.parametrize(("text", "names"), [("{", "not valid JSON"), ("[]", r"expected a group of keys, got \[\]")])
def test_what_is_not_a_schema_at_all_is_told(text, names):
    with pytest.raises(SchemaError, match=names):
        Schema.from_json(text)


def test_heads_are_the_tasks_without_another_head():
    tasks = (Task("soft", "s", kind="soft", head="like"), TASK, Task("like", "l"), Task("teacher", "t", head="click"))
    found = schema(tasks=tasks)
    assert found.heads == ("click", "like")
    assert found.head_of_task == (1, 0, 1, 0)
    assert Schema.from_json(found.to_json()) == found
    assert tiny.SCHEMA.heads == tiny.SCHEMA.task_names


BAD_SCHEMAS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "duplicate feature": ({"features": (NUMBER, IDS, NUMBER)}, ("duplicate feature 'n'",)),
    "duplicate task": ({"tasks": (TASK, TASK)}, ("duplicate task 'click'",)),
    "duplicate scenario": ({"scenarios": ("a", "b", "a")}, ("duplicate scenario 'a'",)),
    "unnamed feature": ({"features": (NUMBER, IDS, number(name=""))}, ("a feature has an empty name",)),
    "unnamed task": ({"tasks": (Task("", "clicked"),)}, ("a task has an empty name",)),
    "unnamed scenario": ({"scenarios": ("a", "")}, ("a scenario has an empty name",)),
    "no task": ({"tasks": ()}, ("no task",)),
    "no scenario column": ({"scenario": ""}, ("a scenario column",)),
    "no scenarios": ({"scenarios": ()}, ("at least one scenario value",)),
    "no ad id": ({"ad_id": ""}, ("ad_id",)),
    "ad id dtype": ({"ad_id_dtype": "float"}, ("ad_id_dtype 'float'", "string, int")),
    "no query feature": ({"features": (IDS,)}, ("the query tower has no feature",)),
    "no ad feature": ({"features": (NUMBER,)}, ("the ad tower has no feature",)),
    "task without a label": ({"tasks": (TASK, Task("like", ""))}, ("task 'like' has no label column",)),
    "task kind": ({"tasks": (Task("like", "l", kind="warm"),)}, ("task 'like'", "'warm'")),
    "task weight": ({"tasks": (Task("like", "l", weight=-1.0),)}, ("task 'like'", "weight -1.0")),
    "task weight NaN": ({"tasks": (Task("like", "l", weight=float("nan")),)}, ("task 'like'", "weight nan")),
    "head of no task": ({"tasks": (TASK, Task("t", "l", head="clik"))}, ("task 't': head 'clik'", "which are: click")),
    "head of itself": ({"tasks": (TASK, Task("t", "l", head="t"))}, ("task 't': head 't'", "which are: click")),
    "head of a head": (
        {"tasks": (TASK, Task("t", "l", head="click"), Task("u", "l", head="t"))},
        ("task 'u': head 't'", "which are: click"),
    ),
    "no head at all": ({"tasks": (Task("t", "l", head="u"), Task("u", "l", head="t"))}, ("task 't'", "none")),
    "label is a feature": ({"tasks": (Task("click", "n"),)}, ("the label 'n' of task 'click' is also a feature",)),
    "mask is a feature": ({"tasks": (Task("click", "l", mask="c"),)}, ("the mask 'c' of task 'click'",)),
    "weight is a feature": ({"tasks": (Task("click", "l", weight_column="c"),)}, ("the weight_column 'c'", "'click'")),
}


@pytest.mark.parametrize("case", BAD_SCHEMAS)
def test_a_schema_that_contradicts_itself_names_the_culprit(case):
    changes, names = BAD_SCHEMAS[case]
    with pytest.raises(SchemaError) as error:
        dataclasses.replace(schema(), **changes)
    for name in ("schema 'mini'", *names):
        assert name in str(error.value)


INT = ids(name="i", dtype="int")
BAD_FEATURES: dict[str, tuple[tuple[Feature, ...], tuple[str, ...]]] = {
    "kind": ((ids(kind="categoric"),), ("kind 'categoric'", "categorical, bag, sequence, numeric, dense")),
    "tower": ((ids(tower="user"),), ("tower 'user'", "query, ad")),
    "dtype": ((ids(dtype="str"),), ("dtype 'str'", "string, int")),
    "transform": ((number(transform="log"),), ("transform 'log'", "none, log1p")),
    "no rows": ((ids(hash_size=0),), ("a hash_size, a vocabulary or both, or else dynamic_rows",)),
    "hashed and dynamic": ((ids(dynamic_rows=8),), ("a hash_size, a vocabulary or both, or else dynamic_rows",)),
    "learned and dynamic": ((ids(hash_size=0, dynamic_rows=8, min_count=2),), ("or else dynamic_rows",)),
    "learned and given": ((ids(vocabulary=("a",), min_count=2),), ("to have it learned",)),
    "min_count": ((ids(min_count=-1),), ("min_count -1", ">= 0")),
    "max_vocabulary": ((ids(max_vocabulary=-1),), ("max_vocabulary -1", ">= 0")),
    "dynamic rows": ((ids(hash_size=0, dynamic_rows=12),), ("dynamic_rows 12", "multiple of 8")),
    "too many dynamic rows": ((ids(hash_size=0, dynamic_rows=2**31),), (f"dynamic_rows {2**31}",)),
    "admit_after": ((ids(hash_size=0, dynamic_rows=8, admit_after=0),), ("admit_after 0", ">= 1")),
    "evict_after": ((ids(hash_size=0, dynamic_rows=8, evict_after=-1),), ("evict_after -1", ">= 0")),
    "evicting hashed ids": ((ids(evict_after=9),), ("evict_after", "does not have")),
    "dynamic rows of a number": ((number(dynamic_rows=8),), ("dynamic_rows", "not 'numeric'")),
    "hash size too small": ((ids(hash_size=2),), ("hash_size 2",)),
    "hash size negative": ((ids(hash_size=-5),), ("hash_size -5",)),
    "hash size too large": ((ids(hash_size=MAX_TABLE_ROWS + 1),), (f"hash_size {MAX_TABLE_ROWS + 1}",)),
    "hash of a number": ((number(hash_size=10),), ("hash_size", "not 'numeric'")),
    "vocabulary of a vector": ((number(kind="dense", vocabulary=("a",)),), ("vocabulary", "not 'dense'")),
    "shares of a number": ((number(shares="c"),), ("shares", "not 'numeric'")),
    "vocabulary of ints": ((ids(hash_size=0, vocabulary=("a", 3)),), ("vocabulary value 3", "'string'")),
    "vocabulary of strings": ((ids(dtype="int", hash_size=0, vocabulary=(3, "a")),), ("vocabulary value 'a'", "'int'")),
    "vocabulary of booleans": ((ids(dtype="int", hash_size=0, vocabulary=(True,)),), ("vocabulary value True",)),
    "vocabulary past int64": ((ids(dtype="int", hash_size=0, vocabulary=(2**63,)),), (f"vocabulary value {2**63}",)),
    "vocabulary twice": ((ids(hash_size=0, vocabulary=("a", "b", "a")),), ("duplicates",)),
    "dim": ((ids(dim=0),), ("dim 0",)),
    "dense dim": ((number(kind="dense", dim=-1),), ("dim -1",)),
    "max_length": ((ids(kind="bag", max_length=0),), ("max_length 0",)),
    "indicator of ids": ((ids(indicator=True),), ("indicator", "not 'categorical'")),
    "indicator of a vector": ((number(kind="dense", indicator=True),), ("indicator", "not 'dense'")),
    "std": ((number(std=0.0),), ("std > 0",)),
    "mean": ((number(mean=float("nan")),), ("finite mean", "nan")),
    "clip": ((number(clip=0.0),), ("clip > 0",)),
    "no clip": ((number(clip=float("inf")),), ("clip > 0", "inf")),
    "default of a string id": ((ids(default=3),), ("default 3", "'string'")),
    "default of an int id": ((ids(dtype="int", default="a"),), ("default 'a'", "'int'")),
    "default of an int id past int64": ((ids(dtype="int", default=-(2**63) - 1),), ("default -9223372036854775809",)),
    "default of a number": ((number(default="a"),), ("numeric", "default 'a'")),
    "default boolean": ((number(default=True),), ("numeric", "default True")),
    "default NaN": ((number(default=float("nan")),), ("numeric", "default nan")),
    "default of a vector": ((number(kind="dense", default=1.0),), ("dense", "default 1.0")),
    "shares nothing": ((ids(hash_size=0, shares="nosuch"),), ("shares 'nosuch'",)),
    "shares itself": ((ids(hash_size=0, shares="x"),), ("shares 'x'",)),
    "shares a number": ((ids(hash_size=0, shares="n"),), ("shares 'n'",)),
    "shares a sharer": ((ids(name="y", hash_size=0, shares="c"), ids(hash_size=0, shares="y")), ("shares 'y'",)),
    "shares another width": ((ids(hash_size=0, shares="c", dim=4),), ("'c'", "dim and dtype must be equal")),
    "shares another dtype": ((INT, ids(hash_size=0, shares="i")), ("'i'", "dim and dtype must be equal")),
    "shares with a hash": ((ids(shares="c"),), ("no hash_size",)),
    "shares with a vocabulary": ((ids(hash_size=0, vocabulary=("a",), shares="c"),), ("no hash_size, vocabulary",)),
    "shares with a vocabulary to learn": ((ids(hash_size=0, min_count=2, shares="c"),), ("no hash_size, vocabulary",)),
    "shares with dynamic rows": ((ids(hash_size=0, dynamic_rows=8, shares="c"),), ("dynamic_rows of its own",)),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FEATURES)
def test_a_bad_feature_is_named_with_its_value(case):
    features, names = BAD_FEATURES[case]
    with pytest.raises(SchemaError) as error:
        schema(*features)
    for name in ("schema 'mini'", "feature 'x'", *names):
        assert name in str(error.value)


def test_an_unknown_feature_gets_the_nearest_name():
    with pytest.raises(SchemaError, match="unknown feature 'histroy'; did you mean 'history'"):
        tiny.SCHEMA.feature("histroy")


def test_a_shared_table_has_one_owner():
    s = tiny.SCHEMA
    assert s.table_owner(s.feature("history")) is s.feature("ad_id")
    assert s.table_owner(s.feature("ad_id")) is s.feature("ad_id")
    assert s.feature("country").rows == len(tiny.COUNTRIES) + 2
    assert s.feature("user").rows == 50


def test_layout_covers_every_column_once_in_schema_order():
    for tower in ("query", "ad"):
        layout = tiny.SCHEMA.layout[tower]
        for spans, width in ((layout.ids, layout.id_slots), (layout.floats, layout.float_width)):
            columns = [c for _, first, last in spans for c in range(first, last)]
            assert columns == list(range(width))
        found = [name for name, _, _ in (*layout.ids, *layout.floats)]
        assert sorted(found) == sorted(f.name for f in tiny.SCHEMA.tower_features(tower))
    assert tiny.SCHEMA.layout["query"].ids == (
        ("user", 0, 1), ("country", 1, 2), ("interests", 2, 5), ("history", 5, 9)
    )  # fmt: skip
    assert tiny.SCHEMA.layout["query"].floats == (("age", 0, 2), ("query_embedding", 2, 5))
    assert tiny.SCHEMA.layout["ad"].floats == (("price", 0, 1), ("ad_embedding", 1, 4))


def test_array_specs_and_keys():
    assert tiny.SCHEMA.key_columns == ("request_id", "user_id", "ad_id", "time", "hour")
    assert schema(user_id="id", slices=("s", "id")).key_columns == ("id", "s")
    assert array_specs(tiny.SCHEMA) == {
        "query_ids": (np.int32, 9),
        "ad_ids": (np.int32, 4),
        "query_floats": (np.float32, 5),
        "ad_floats": (np.float32, 4),
        "labels": (np.float32, 3),
        "weights": (np.float32, 3),
        "scenario": (np.int32, 1),
        "keys": (np.int64, 5),
    }
