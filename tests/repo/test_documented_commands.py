"""Every `tt-jax` command in a code block of the README and the docs has a verb, flags and fields that there are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tt_jax.cli.main import VERBS, parser_of
from tt_jax.config import Config

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *(p for p in sorted((ROOT / "docs").rglob("*.md")) if p.parent.name != "log")]
BLOCK = re.compile(r"^( *)```sh\n(.*?)^\1```|^((?: {4}[^\n]*\n)+)", re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    blocks = "".join(fenced or indented for _, fenced, indented in BLOCK.findall(page.read_text()))
    lines = blocks.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.lstrip().startswith("tt-jax ")]


def flags_of(verb: str) -> set[str]:
    return set(re.findall(r"--[a-z][a-z-]*", parser_of(verb).format_help()))


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=lambda p: str(p.relative_to(ROOT)))
def test_the_commands_of_a_page_exist(page: Path) -> None:
    for verb, *rest in commands(page):
        assert verb in VERBS
        for flag in (word.partition("=")[0] for word in rest if word.startswith("--")):
            if flag.startswith("--config."):
                value = Config()
                for name in flag.split(".")[1:]:
                    value = getattr(value, name)  # raises for a field that there is not
            else:
                assert flag in flags_of(verb), f"tt-jax {verb} {flag}"


def test_the_commands_are_found() -> None:
    assert len(commands(ROOT / "README.md")) >= 7
