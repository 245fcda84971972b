"""The notebooks run as scripts, from top to bottom, in a directory that is not the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.process

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook: Path, tmp_path: Path) -> None:
    environment = os.environ | {"MPLBACKEND": "Agg", "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", str(notebook)]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.strip()


def test_a_notebook_is_cells_of_text_and_of_code() -> None:
    assert len(NOTEBOOKS) == 2
    for notebook in NOTEBOOKS:
        text = notebook.read_text()
        assert text.count("\n# %% [markdown]\n") >= 4
        assert text.count("\n# %%\n") >= 4
