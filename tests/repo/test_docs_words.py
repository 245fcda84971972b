"""The pages of docs/ and the README: links lead somewhere, lines are short, numbers are written in full."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
USER_PAGES = [page for page in PAGES if "log" not in page.parts]  # docs/log is frozen
COLUMNS = 100
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"(`+).+?\1")
BARE = re.compile(r"(?<![\w./])[-−+±]?\.\d")
FILE = re.compile(r"`((?:tt_jax|input_pipeline|serving|configs|benchmarks|tests|deploy)/[\w./-]*)`")
PLACEHOLDER = "NAME"  # of a file that a reader is to write
DATED = re.compile(r"\b(now|lately|nowadays)\b", re.IGNORECASE)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def lines(page: Path) -> Iterator[tuple[int, str]]:
    """`(number, text)` of each line outside of code blocks."""
    fenced = False
    blank_or_code = True
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and not (blank_or_code := line.startswith("    ") and blank_or_code):
            yield number, line
            blank_or_code = not line.strip()


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    seen: Counter[str] = Counter()
    found = set()
    for _, line in lines(page):
        if heading := re.fullmatch(r"#+ (.*)", line):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).lower()
            anchor = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
            found.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
            seen[anchor] += 1
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    dead = []
    for number, line in lines(page):
        for link in LINK.findall(CODE.sub("", line)):
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            if "://" not in link and not (target.exists() and (not anchor or anchor in anchors(target))):
                dead.append(f"{name(page)}:{number}: {link}")
    assert not dead


@pytest.mark.parametrize("page", USER_PAGES, ids=name)
def test_files_that_are_named_exist(page: Path) -> None:
    files = [file for _, line in lines(page) for file in FILE.findall(line) if PLACEHOLDER not in file]
    assert not [file for file in files if not (ROOT / file).exists()]


@pytest.mark.parametrize("page", USER_PAGES, ids=name)
def test_prose_is_at_most_100_columns_wide(page: Path) -> None:
    assert not [
        f"{name(page)}:{number}: {len(line)} columns"
        for number, line in lines(page)
        if len(line) > COLUMNS and not line.startswith(("|", "#", "!["))
    ]


@pytest.mark.parametrize("page", USER_PAGES, ids=name)
def test_numbers_have_a_leading_zero_and_nothing_is_told_of_now(page: Path) -> None:
    wrong = []
    for number, line in lines(page):
        prose = CODE.sub("", line)
        wrong += [f"{name(page)}:{number}: {found[0]}" for found in (BARE.search(prose), DATED.search(prose)) if found]
    assert not wrong


def test_pages_lie_in_the_folder_of_their_kind() -> None:
    assert [page.name for page in (ROOT / "docs").glob("*.md")] == ["index.md"]
    assert {page.parent.name for page in PAGES if page.parent.parent == ROOT / "docs"} == {
        "explanation",
        "how-to",
        "log",
        "reference",
        "tutorials",
    }
