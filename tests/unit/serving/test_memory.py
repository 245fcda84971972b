"""A pair that does not fit into memory is refused before it is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving import memory
from serving.memory import PEAK, NoRoomError, available_memory, require_room


def machine(folder: Path, available: int, limit: str = "", used: int = 0) -> None:
    (folder / "meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable:   {available // 1024} kB\n")
    if limit:
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    return tmp_path


def test_what_is_available(here: Path) -> None:
    assert available_memory() is None
    machine(here, 2**30)
    assert available_memory() == 2**30
    machine(here, 2**30, "max")
    assert available_memory() == 2**30
    machine(here, 2**30, str(2**29), 2**28)
    assert available_memory() == 2**28
    machine(here, 2**30, str(2**29), 2**30)
    assert available_memory() == 0


def test_a_load_that_does_not_fit_is_refused_with_figures(here: Path) -> None:
    for name in ("bundle", "index"):
        (here / name / "deep").mkdir(parents=True)
        (here / name / "deep" / "array").write_bytes(bytes(2**20))
    machine(here, PEAK * 2**21)
    require_room(here / "bundle", here / "index")
    machine(here, PEAK * 2**21 - 1024)
    with pytest.raises(NoRoomError, match=r"a load takes 6\.0 MiB, 3 times the 2\.0 MiB of their files; 6\.0 MiB are"):
        require_room(here / "bundle", here / "index")


def test_this_machine_says_what_it_has() -> None:
    found = available_memory()
    assert found is None or found > 2**20
