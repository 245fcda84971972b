"""docs/reference/metrics.md lists the metrics of the table, and no others."""

from __future__ import annotations

import re

from tests.support.paths import ROOT
from tt_jax.metrics.table import METRICS


def test_the_page_lists_the_metrics_of_the_table() -> None:
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    section = page[page.index("## Of a task") : page.index("## Of a funnel")]
    listed = re.findall(r"^\| `(\w+)` \| (.*?) \|", section, re.MULTILINE)
    assert listed == [(name, metric.definition) for name, metric in METRICS.items()]
