"""The examples of docs/reference/features/ do what the pages say, and are short."""

from __future__ import annotations

import doctest
import re

import pytest

from tests.support.paths import ROOT

PAGES = ROOT / "docs" / "reference" / "features"
PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
KINDS = ("categorical", "bag", "sequence", "numeric", "dense")


@pytest.mark.parametrize("kind", KINDS)
def test_the_examples_of_a_page(kind: str) -> None:
    names: dict[str, object] = {}
    (helpers,) = PYTHON.findall((PAGES / "index.md").read_text())
    exec(compile(helpers, "index.md", "exec"), names)
    page = (PAGES / f"{kind}.md").read_text()
    examples = "\n".join(PYTHON.findall(page))
    test = doctest.DocTestParser().get_doctest(examples, names, kind, f"{kind}.md", 0)
    assert len(test.examples) >= 3
    report: list[str] = []
    doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    assert not report, "".join(report)
    assert len(page.splitlines()) <= 60
