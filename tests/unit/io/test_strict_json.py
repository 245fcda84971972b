"""The strict reader: types at every depth, and messages with the path of what is wrong."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from tt_jax.io.strict_json import dataclass_from_dict, nearest, parse_json


class WrongError(ValueError):
    pass


@dataclass(frozen=True)
class Leaf:
    text: str
    share: float = 0.5


@dataclass(frozen=True)
class Tree:
    count: int
    kind: Literal["big", "small"]
    leaf: Leaf
    leaves: tuple[Leaf, ...]
    counts: dict[str, dict[str, int]]
    anything: Any
    grid: tuple[tuple[int, ...], ...] = ()
    default: str | int | float | None = None
    rate: float | None = None
    flag: bool = False
    named: dict[str, float] = field(default_factory=dict)


GOOD: dict[str, Any] = {
    "count": 3,
    "kind": "big",
    "leaf": {"text": "a"},
    "leaves": [{"text": "b", "share": 1}, {"text": "c"}],
    "counts": {"x": {"y": 1}, "z": {}},
    "anything": [{"at": ["all"]}],
}


def read(data: Any, complete: bool = False) -> Tree:
    return dataclass_from_dict(Tree, data, "tree", WrongError, complete)


def test_every_kind_of_field_and_the_defaults():
    tree = read(json.loads(json.dumps(GOOD)))
    assert tree == Tree(3, "big", Leaf("a"), (Leaf("b", 1.0), Leaf("c")), GOOD["counts"], GOOD["anything"])
    assert type(tree.leaves[0].share) is float
    more = {"grid": [[1, 2], []], "default": 7, "rate": 1, "flag": True, "named": {"n": 2}}
    tree = read({**GOOD, **more})
    assert (tree.grid, tree.default, tree.rate, tree.flag, tree.named) == (((1, 2), ()), 7, 1.0, True, {"n": 2.0})
    assert type(tree.default) is int
    assert type(tree.rate) is type(tree.named["n"]) is float


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cuont": 1}, "tree: unknown key 'cuont'; did you mean 'count'?"),
        ({"leaf": {"text": "a", "shore": 1}}, "tree.leaf: unknown key 'shore'; did you mean 'share'?"),
        ({"leaves": [{"text": "b"}, {"share": 1.0}]}, "tree.leaves[1]: missing key 'text'"),
        ({"leaves": {"text": "b"}}, "tree.leaves: expected a list of Leaf, got {'text': 'b'}"),
        ({"leaves": "b"}, "tree.leaves: expected a list of Leaf, got 'b'"),
        ({"leaf": ["text"]}, "tree.leaf: expected a group of keys, got ['text']"),
        ({"leaf": {"text": None}}, "tree.leaf.text: expected str, got None"),
        ({"leaf": {"text": "a", "share": "1"}}, "tree.leaf.share: expected float, got '1'"),
        ({"leaf": {"text": "a", "share": True}}, "tree.leaf.share: expected float, got True"),
        ({"count": 1.0}, "tree.count: expected int, got 1.0"),
        ({"count": True}, "tree.count: expected int, got True"),
        ({"flag": 1}, "tree.flag: expected bool, got 1"),
        ({"kind": "middle"}, "tree.kind: 'middle' is none of big, small"),
        ({"kind": ["big"]}, "tree.kind: ['big'] is none of big, small"),
        ({"counts": {"x": 3}}, "tree.counts.x: expected a group of keys, got 3"),
        ({"counts": {"x": {"y": "1"}}}, "tree.counts.x.y: expected int, got '1'"),
        ({"grid": [[1], [2, "3"]]}, "tree.grid[1][1]: expected int, got '3'"),
        ({"default": True}, "tree.default: expected str | int | float | None, got True"),
        ({"default": [1]}, "tree.default: expected str | int | float | None, got [1]"),
        ({"rate": "1"}, "tree.rate: expected float | None, got '1'"),
    ],
)
def test_what_does_not_fit_is_named_with_its_path(change, message):
    with pytest.raises(WrongError) as error:
        read({**GOOD, **change})
    assert str(error.value) == message


def test_complete_wants_every_field_at_every_depth():
    with pytest.raises(WrongError, match=r"^tree: missing key 'grid'$"):
        read(GOOD, complete=True)
    whole = {**GOOD, "grid": [], "default": None, "rate": None, "flag": False, "named": {}}
    with pytest.raises(WrongError, match=r"^tree\.leaf: missing key 'share'$"):
        read(whole, complete=True)
    leaf = {"text": "a", "share": 0.5}
    assert read({**whole, "leaf": leaf, "leaves": [leaf]}, complete=True).leaf == Leaf("a")


def test_a_huge_value_does_not_make_a_huge_message():
    with pytest.raises(WrongError) as error:
        read({**GOOD, "count": [{"a": "x" * 10_000}] * 10_000})
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("text", ["{", "", b"\xff\xfe", "[" * 100_000, "{'a': 1}"])
def test_what_is_no_json_is_told(text):
    with pytest.raises(WrongError, match=r"^file: not valid JSON: "):
        parse_json(text, "file", WrongError)


def test_nearest_proposes_or_lists():
    assert nearest("histroy", ["age", "history"]) == "; did you mean 'history'?"
    assert nearest("zzz", ["b", "a"]) == "; valid names: a, b"
    assert nearest("zzz", []) == "; valid names: none"
