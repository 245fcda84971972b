"""What the bits of a run depend on besides its configuration and data: docs/explanation/reproducibility.md."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("tt-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
_WITHOUT_EFFECT = ("python",)


def environment() -> dict[str, Any]:
    """Versions, devices, processor and cores of this process, ready for JSON."""
    return {
        "python": platform.python_version(),
        "devices": [d.device_kind for d in jax.devices()],
        "processor": _processor(),
        "cores": _cores(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        **{name: version(name) for name in PACKAGES},
    }


def environment_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs and may change bits, by name; what `before` does not say is not compared."""
    return [
        f"{name} was {_short(before[name])} and is {_short(value)}"
        for name, value in now.items()
        if name not in _WITHOUT_EFFECT and name in before and before[name] != value
    ]


def _short(value: Any) -> str:
    """Of devices, how many of which kind."""
    if not isinstance(value, list):
        return repr(value)
    return " + ".join(f"{value.count(kind)} x {kind}" for kind in dict.fromkeys(value))


def _cores() -> int:
    """Those that XLA takes a thread for: the ones that this process may run on, unless NPROC says otherwise."""
    said = os.environ.get("NPROC", "")
    if said.isdecimal() and int(said):
        return int(said)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    """Its model, which decides what instructions XLA compiles to."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
