"""Where things are: of the repository, and of the data beside it."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
LOGS = ROOT.parent / "shared" / "data"  # real logs, which not every checkout has
KUAIRAND = LOGS / "kuairand_pure"
