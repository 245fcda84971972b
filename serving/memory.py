"""What a bundle and an index take in memory, and whether the machine has it."""

from __future__ import annotations

from pathlib import Path

PEAK = 3  # times the bytes of its files that a load takes at most: what is read, the ads as rows, and as columns
_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


class NoRoomError(ValueError):
    """A pair that would not fit into memory. The message has the figures."""


def require_room(bundle: str | Path, index: str | Path) -> None:
    """Raises `NoRoomError` if a load of these directories would take more than is available."""
    size = sum(path.stat().st_size for top in (bundle, index) for path in Path(top).rglob("*") if path.is_file())
    available = available_memory()
    if available is not None and PEAK * size > available:
        raise NoRoomError(
            f"{bundle} and {index}: a load takes {_mb(PEAK * size)}, {PEAK} times the {_mb(size)} of their files; "
            f"{_mb(available)} are available"
        )


def available_memory() -> int | None:
    """Bytes that this process may still take, of the machine and its control group; None where Linux does not say."""
    try:
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        available = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return None
    try:
        limit, used = ((_CGROUP / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        return available if limit == "max" else max(0, min(available, int(limit) - int(used)))
    except OSError:  # no control group of the second version, or the root of it
        return available


def _mb(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
