"""What earlier versions wrote is read: the same rows, weights and answers, or it is refused by version.

`stored/VERSION.tar.xz` is what that version wrote of `tests.support.tiny`: `prepared/`, a finished `run/`, its
`bundle/`, an `index/` of the set's ads, `deltas/` and a `journal/`, since 0.2.0 also a `requests.jsonl`, and in
`expected.json` what its scorer answered with all of them. It is never made anew: a version that changes a format adds
an archive of its own with `tests.support.make_stored`.
"""

from __future__ import annotations

import json
import tarfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.cli import Call
from tests.support.paths import ROOT
from tt_jax.io.publish import Format, _canonical, write_digested

ARCHIVES = sorted((ROOT / "tests" / "stored").glob("*.tar.xz"))
NEWEST = ARCHIVES[-1]
LATER = 99  # a version
MOST_BYTES = 400_000  # of all archives


def _version(archive: Path) -> str:
    return archive.name.removesuffix(".tar.xz")


def _unpack(archive: Path, folder: Path) -> Path:
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder / "stored"


@pytest.fixture(params=ARCHIVES, ids=_version)
def stored(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of one version's things, as the working directory, to which their paths are relative."""
    monkeypatch.chdir(found := _unpack(request.param, tmp_path))
    return found


def test_every_version_has_an_archive_and_all_are_small() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert _version(NEWEST) == version
    assert sum(path.stat().st_size for path in ARCHIVES) < MOST_BYTES


def test_a_run_is_evaluated_on_its_set_and_exported(stored: Path, call: Call) -> None:
    """The metrics are those that the run wrote."""
    lines = [json.loads(line) for line in (stored / "run" / "metrics.jsonl").read_text().splitlines()]
    told = next(line for line in reversed(lines) if "eval/click/logloss" in line)
    assert call("evaluate", "--workdir=run", "--split=eval", "--out=eval.json")[0] == 0
    report = json.loads(Path("eval.json").read_text())
    assert report["overall"]["click"]["logloss"] == pytest.approx(told["eval/click/logloss"], rel=1e-5)
    assert ("calibrated" in report) == Path("run/calibration.json").exists()
    assert call("export", "--workdir=run", "--out=again")[0] == 0
    of = [json.loads(Path(f"{name}/manifest.json").read_text())["fingerprint"] for name in ("bundle", "again")]
    assert of[0] == of[1]


def test_a_bundle_its_index_its_deltas_and_its_journal_answer_as_they_did(stored: Path) -> None:
    """The same ads, scores and version."""
    from serving.scorer_updates import load

    expected = json.loads((stored / "expected.json").read_text())
    scorer = load(stored / "bundle", stored / "index", stored / "deltas", stored / "journal", max_k=20, live=True)
    assert scorer.fingerprint == expected["fingerprint"]
    assert str(scorer.ads.version) == expected["version"]
    for found, ads in zip(scorer.top_k(expected["queries"], k=5), expected["ads"], strict=True):
        assert [ad.id for ad in found] == [id_ for id_, _ in ads]
        np.testing.assert_allclose([ad.score for ad in found], [score for _, score in ads], rtol=2e-5)


@pytest.mark.parametrize("stored", ARCHIVES[1:], indirect=True, ids=_version)
def test_a_log_of_requests_is_read_with_its_answers(stored: Path) -> None:
    from serving.parity.request_log import read_log

    expected = json.loads((stored / "expected.json").read_text())
    lines = [line for _, line in read_log(Path("requests.jsonl"))]
    assert [line.query for line in lines] == expected["queries"]
    assert [[[ad.id, pytest.approx(ad.score)] for ad in line.ads] for line in lines] == expected["ads"]
    assert {(line.bundle, line.index) for line in lines} == {(expected["fingerprint"], expected["version"])}


@pytest.fixture
def newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The things of this version, as the working directory."""
    monkeypatch.chdir(found := _unpack(NEWEST, tmp_path))
    return found


def _later(fields: dict[str, Any]) -> dict[str, Any]:
    """With a later version, and a field of which this one does not know."""
    key = "format_version" if "format_version" in fields else "version"
    return {**fields, key: LATER, "unheard_of": 1}


def _published(path: Path) -> None:
    fields = json.loads(path.read_text())
    del fields["digest"]
    path.write_bytes(_canonical(_later(fields)))


def _plain(path: Path) -> None:
    path.write_text("".join(json.dumps(_later(json.loads(line))) + "\n" for line in _documents(path)))


def _documents(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]


def _digested(path: Path) -> None:
    fields = json.loads(path.read_text())
    del fields["format_version"], fields["digest"]
    write_digested(path, {**fields, "unheard_of": 1}, Format(fields.pop("format"), (LATER,)))


def _read_prepared() -> None:
    from input_pipeline.blocks.prepared_set import PreparedSet

    PreparedSet.open("prepared")


def _read_run() -> None:
    from tt_jax.training.trained import load_trained

    load_trained(Path("run"))


def _read_pair() -> None:
    from serving.scorer_updates import load

    load("bundle", "index", "deltas", "journal", max_k=20, warm=False)


def _read_requests() -> None:
    from serving.parity.request_log import read_log

    list(read_log(Path("requests.jsonl")))


@pytest.mark.parametrize(
    ("pattern", "bump", "read", "name", "reads"),
    [
        ("prepared/manifest.json", _plain, _read_prepared, "tt-jax prepared set", "1 or 2"),
        ("run/config.json", _digested, _read_run, "tt-jax run", "1 or 2"),
        ("run/calibration.json", _digested, _read_run, "tt-jax calibration", "1 or 2"),
        ("run/checkpoints/*/manifest.json", _published, _read_run, "tt-jax checkpoint", "1 or 2"),
        ("bundle/manifest.json", _published, _read_pair, "tt-jax bundle", "2"),
        ("index/manifest.json", _published, _read_pair, "tt-jax ad index", "1 or 2 or 3"),
        ("deltas/*/manifest.json", _published, _read_pair, "tt-jax ad delta", "1 or 2 or 3"),
        ("journal/journal.json", _plain, _read_pair, "tt-jax journal", "1 or 2"),
        ("journal/*/compacted-*/manifest.json", _published, _read_pair, "tt-jax compacted journal", "1 or 2 or 3"),
        ("requests.jsonl", _plain, _read_requests, "tt-jax request log", "1 or 2 or 3 or 4"),
    ],
)
def test_a_thing_of_a_later_version_is_refused_in_one_line(
    newest: Path,
    pattern: str,
    bump: Callable[[Path], None],
    read: Callable[[], None],
    name: str,
    reads: str,
) -> None:
    """Which names its path, its version and those that are read, though it holds things that this version knows not."""
    read()
    (path,) = newest.glob(pattern)
    bump(path)
    told = f"expected '{name}' version {reads}, found '{name}' version {LATER}$"
    with pytest.raises(ValueError, match=told) as error:
        read()
    assert "\n" not in str(error.value)
    assert str(path.relative_to(newest)).removesuffix("/manifest.json") in str(error.value)


def test_a_checkpoint_of_a_later_version_stays_where_it_is(newest: Path, call: Call) -> None:
    """It is no damaged one, which a run would move aside to begin at the one before it, or anew."""
    (path,) = newest.glob("run/checkpoints/*/manifest.json")
    _published(path)
    config = f"--config={ROOT / 'tests' / 'support' / 'make_stored.py'}"
    error = call.refused("train", config, "--config.data.path=prepared", "--workdir=run")
    assert f"found 'tt-jax checkpoint' version {LATER}" in error
    assert path.exists()
    assert not list(newest.glob("run/damaged*"))
