"""The pictures of the docs are what docs/pictures/draw.py makes of the text files beside it."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from docs.pictures.draw import HERE, drawn

DESCRIPTIONS = sorted(HERE.glob("*.txt"))
ROWS = "title: T\na: first / second | b: B\nc: C & D"


@pytest.mark.parametrize("description", DESCRIPTIONS, ids=lambda path: path.stem)
def test_a_picture_is_of_today(description) -> None:
    svg = description.with_suffix(".svg")
    assert svg.read_text() == drawn(description.read_text()), f"{svg} is stale: python docs/pictures/draw.py"


def test_every_picture_has_its_description() -> None:
    assert DESCRIPTIONS
    assert {p.stem for p in HERE.glob("*.svg")} == {p.stem for p in DESCRIPTIONS}


def test_boxes_texts_and_arrows() -> None:
    svg = ET.fromstring(drawn(f"{ROWS}\na -> c: to C\na -> b"))
    name = "{http://www.w3.org/2000/svg}"
    boxes = [(float(r.get("x", "")), float(r.get("width", ""))) for r in svg.iter(f"{name}rect")]
    assert boxes == [(10, 184), (206, 184), (10, 380)]
    texts = [t.text for t in svg.iter(f"{name}text")]
    assert texts == ["first", "second", "B", "C & D", "to C"]
    (down, across), (title,) = svg.iter(f"{name}line"), svg.iter(f"{name}title")
    assert (down.get("x1"), down.get("y1")) == ("102", "56")
    assert (across.get("x1"), across.get("y1"), across.get("y2")) == ("194", "33", "33.0")
    assert title.text == "T"


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("a -> d", "arrow a -> d: there is no box d"),
        ("c -> a", "arrow c -> a: a stands neither in a later row nor next to c"),
        ("d: D\na -> d", "arrow a -> d: crosses c"),
        ("d: a text that is far too wide for half of a row | e: E", "box d: .* does not fit into 184 units"),
    ],
)
def test_what_cannot_be_drawn_is_an_error(line: str, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        drawn(f"{ROWS}\n{line}")
