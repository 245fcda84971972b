"""Published directories: whole or not at all, one writer at a time, every byte accounted for."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from tt_jax.io.publish import (
    Format,
    PublishError,
    _lock,
    describe_files,
    published_directory,
    read_published,
    write_manifest,
)
from tt_jax.io.verify import FileEntry

pytestmark = pytest.mark.process


class BrokenError(ValueError):
    pass


@dataclass(frozen=True)
class _Manifest:
    FORMAT: ClassVar[Format] = Format("thing", (1,))
    name: str
    shape: tuple[int, ...]
    files: tuple[FileEntry, ...]


def _publish(out: Path) -> _Manifest:
    with published_directory(out) as folder:
        (folder / "a.bin").write_bytes(bytes(range(256)) * 50)
        (folder / "sub").mkdir()
        (folder / "sub" / "b.txt").write_text("text")
        (folder / "empty").write_bytes(b"")
        manifest = _Manifest("thing", (3, 4), describe_files(folder))
        write_manifest(folder, manifest)
    return manifest


def test_what_is_published_reads_back_and_nothing_else_remains(tmp_path: Path) -> None:
    manifest = _publish(tmp_path / "new" / "out")
    assert read_published(tmp_path / "new" / "out", _Manifest, BrokenError) == manifest
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["out"]
    assert [(f.path, f.size) for f in manifest.files] == [("a.bin", 12800), ("empty", 0), ("sub/b.txt", 4)]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise error

    with pytest.raises(error), published_directory(tmp_path / "out") as folder:
        fail(folder)
    assert list(tmp_path.iterdir()) == []


def test_what_exists_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "folder").mkdir()
    for name in ("file", "link", "folder"):
        with pytest.raises(PublishError, match=f"{name}: already exists"), published_directory(tmp_path / name):
            raise AssertionError("not reached")
    with pytest.raises(PublishError, match="already exists"), published_directory(tmp_path / "late"):
        (tmp_path / "late").mkdir()  # an empty directory, which a rename would replace
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder", "late", "link"]


def test_a_second_writer_is_refused_and_does_not_disturb_the_first(tmp_path: Path) -> None:
    with published_directory(tmp_path / "out") as folder:
        (folder / "mine").write_text("x")
        with pytest.raises(PublishError, match="another run is writing it"), published_directory(tmp_path / "out"):
            raise AssertionError("not reached")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]


def test_a_lock_on_a_directory_that_was_published_meanwhile_does_not_count(tmp_path: Path) -> None:
    partial, out = tmp_path / ".out.partial", tmp_path / "out"
    partial.mkdir()
    opened = os.open(partial, os.O_RDONLY)
    _lock(opened, partial, out)
    fcntl.flock(opened, fcntl.LOCK_UN)
    partial.rename(out)
    for again in (False, True):
        if again:
            partial.mkdir()
        with pytest.raises(PublishError, match="another run is writing it"):
            _lock(opened, partial, out)
    os.close(opened)


_KILLED = """
    import os, signal, sys
    from tt_jax.io.publish import published_directory
    with published_directory(sys.argv[1]) as folder:
        (folder / "half").write_text("x")
        (folder / "sub").mkdir()
        (folder / "link").symlink_to(folder / "sub")
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_run_left_goes_with_the_next(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(_KILLED), str(tmp_path / "out")])
    assert run.returncode == -9
    assert [p.name for p in tmp_path.iterdir()] == [".out.partial"]
    manifest = _publish(tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert read_published(tmp_path / "out", _Manifest, BrokenError) == manifest


def test_links_are_refused(tmp_path: Path) -> None:
    _publish(tmp_path / "out")
    (tmp_path / "out" / "link").symlink_to("a.bin")
    with pytest.raises(BrokenError, match="link: expected a plain file"):
        read_published(tmp_path / "out", _Manifest, BrokenError)
    with pytest.raises(PublishError, match="link: expected a plain file"):
        describe_files(tmp_path / "out")


def test_a_manifest_must_be_as_it_was_written(tmp_path: Path) -> None:
    manifest = _publish(tmp_path / "out")
    path = tmp_path / "out" / "manifest.json"
    written = path.read_bytes()

    def refused(data: bytes, message: str) -> None:
        path.write_bytes(data)
        with pytest.raises(BrokenError, match=rf"manifest\.json: .*{message}"):
            read_published(tmp_path / "out", _Manifest, BrokenError)

    fields = json.loads(written)
    refused(json.dumps({**fields, "name": "other"}, indent=1, sort_keys=True).encode() + b"\n", "digest")
    refused(written + b" ", "digest")
    refused(json.dumps({**fields, "nme": 1}).encode(), "unknown key 'nme'; did you mean 'name'")
    refused(json.dumps({**fields, "shape": [1.5]}).encode(), r"shape\[0\]: expected int, got 1.5")
    refused(b"[]", "expected a group of keys")
    refused(written[:100], "")
    refused(b"[" * 100_000, "")
    refused(b"\xff\xfe", "")
    refused(b" " * (2**24 + 1), "at most")
    path.unlink()
    with pytest.raises(BrokenError, match=r"expected a directory with a manifest\.json"):
        read_published(tmp_path / "out", _Manifest, BrokenError)
    write_manifest(tmp_path / "out", dataclasses.replace(manifest, files=manifest.files[:-1]))
    with pytest.raises(BrokenError, match=r"b\.txt: not in the manifest"):
        read_published(tmp_path / "out", _Manifest, BrokenError)
