"""What `tt-jax init` writes, loaded and used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from input_pipeline.blocks.prepared_set import PreparedSet
from input_pipeline.infer_schema.write import InferredRecipe, infer_recipe
from tests.support.init_logs import call


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[[int], InferredRecipe]:
    """Writes the schema of what is in `data`, and prepares it: all rows are there."""

    def check(rows: int) -> InferredRecipe:
        source, out = tmp_path / "data", tmp_path / "mine.py"
        found = infer_recipe(str(source), out, 1000)
        out.write_text(found.text)
        assert call("prepare", out, f"--source={source}", f"--out={tmp_path / 'set'}") == 0
        splits = PreparedSet.open(tmp_path / "set").manifest.splits.values()
        assert sum(c.rows for scenarios in splits for c in scenarios.values()) == rows
        return found

    (tmp_path / "data").mkdir()
    return check
