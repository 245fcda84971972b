"""Which models a service has: the flags and the file say the same, and what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.routing.plan import Plan, PlanError
from serving.routing.router import Routes
from serving.scorer_updates import Sources

TOML = """
route = "scenario"
split_by = "user"

[models.standard]
bundle = "a/bundle"
index = "a/index"
deltas = "a/deltas"
journal = "journals/standard"

[models.shopping]
pairs = [
  {bundle = "b/bundle", index = "b/index", weight = 70},
  {bundle = "c/bundle", index = "c/index", weight = 30},
]
shadow = {bundle = "d/bundle", index = "d/index", share = 0.1}
"""


def pair(name: str, deltas: Path | None = None, journal: Path | None = None) -> Sources:
    return Sources(Path(name, "bundle"), Path(name, "index"), deltas, journal)


ROUTES = Routes(
    {"standard": {"standard": 1.0}, "shopping": {"shopping.1": 70.0, "shopping.2": 30.0}},
    {"shopping": ("shopping.shadow", 0.1)},
    "scenario",
    "user",
)


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text(TOML)
    plan = Plan.read(path)
    assert plan.routes == ROUTES
    assert plan.pairs == {
        "standard": pair("a", Path("a/deltas"), Path("journals/standard")),
        "shopping.1": pair("b"),
        "shopping.2": pair("c"),
        "shopping.shadow": pair("d"),
    }


def test_flags() -> None:
    plan = Plan.of_flags(
        ["standard=a/bundle,a/index", "shopping=70:b/bundle,b/index,30:c/bundle,c/index"],
        ["shopping=0.1:d/bundle,d/index"],
        "scenario",
        "user",
        Path("J"),
    )
    assert plan.routes == ROUTES
    assert plan.pairs["standard"] == pair("a", None, Path("J/standard"))
    assert plan.pairs["shopping.2"] == pair("c", None, Path("J/shopping.2"))
    assert plan.pairs["shopping.shadow"] == pair("d")


def test_a_lone_pair_gets_the_name_of_its_schema() -> None:
    plan = Plan.alone(pair("a")).named("tiny")
    assert (plan.pairs, plan.routes) == ({"tiny": pair("a")}, Routes({"tiny": {"tiny": 1.0}}))


@pytest.mark.parametrize(
    ("models", "shadows", "message"),
    [
        (["shopping"], [], "--model shopping: expected NAME=BUNDLE,INDEX"),
        (["shopping=a"], [], "--model shopping=a: expected pairs BUNDLE,INDEX, got 1 directories in 'a'"),
        (["a b=a,b"], [], "models: expected a name of letters, digits, - and _, got 'a b'"),
        (["a=a,b", "a=c,d"], [], "--model a=c,d: expected another name, 'a' is there twice"),
        (["a=a,b,c,d"], [], "--model a=a,b,c,d: expected WEIGHT:BUNDLE,INDEX for each of several pairs, got 'a'"),
        (["a=1.2.3:a,b"], [], "expected a number before the colon, got '1.2.3'"),
        (["a=0:a,b,0:c,d"], [], r"models.a: expected a weight above 0, got \[0.0, 0.0\]"),
        (["a=a,b"], ["b=0.1:c,d"], "--shadow b=0.1:c,d: expected one pair for each of the models a"),
        (["a=a,b"], ["a=c,d"], "models.a.shadow: object missing required field `share`, got {'bundle': 'c'"),
        (["a=a,b"], ["a=2:c,d"], "models.a.shadow.share: expected `float` <= 1.0, got 2.0"),
        ([], [], "models: expected `object` of length >= 1, got {}"),
    ],
)
def test_a_wrong_flag_is_named(models: list[str], shadows: list[str], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Plan.of_flags(models, shadows)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models = ", "not valid TOML"),
        ("", "the table: object missing required field `models`, got {}"),
        ('[models.a]\nbundle = "b"', "models.a.pairs[0]: object missing required field `index`, got {'bundle': 'b'}"),
        ('[models.a]\nbundle = 7\nindex = "i"', "models.a.pairs[0].bundle: expected `str`, got 7"),
        ('[models.a]\nbundel = "b"', "models.a.pairs[0]: object contains unknown field `bundel`, got {'bundel': 'b'}"),
        ('route = "moon"\n[models.a]\nbundle = "b"\nindex = "i"', "route: expected 'scenario', got 'moon'"),
        (
            "".join(f'[models.{name}]\nbundle = "b"\nindex = "i"\njournal = "J"\n' for name in "ab"),
            "journal: expected a directory for each pair, got 'J' twice",
        ),
        ("[models.a]\npairs = []", "models.a.pairs: expected `array` of length >= 1, got []"),
    ],
)
def test_a_wrong_key_of_a_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text(text)
    with pytest.raises(PlanError) as error:
        Plan.read(path)
    assert str(error.value).startswith(f"{path}: {message}")
