"""Where things are: of the repository, and of the data beside it."""

from __future__ import annotations

import platform
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOGS = ROOT.parent / "shared" / "data"  # real logs, which not every checkout has
KUAIRAND = LOGS / "kuairand_pure"


def processor() -> str:
    """What compiled programs depend on: the processor and what it can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
