"""What earlier versions wrote is read: the same rows, weights and answers, or it is refused by version.

`stored/VERSION.tar.xz` is what that version wrote of `tests.support.tiny`: `prepared/`, a finished `run/`, its
`bundle/`, an `index/` of the set's ads, `deltas/` and a `journal/`, and in `expected.json` what its scorer answered
with all of them. It is never made anew. A version that changes a format adds an archive of its own.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.support.cli import Call
from tests.support.paths import ROOT

ARCHIVES = sorted((ROOT / "tests" / "stored").glob("*.tar.xz"))


@pytest.fixture(params=ARCHIVES, ids=lambda p: p.name.removesuffix(".tar.xz"))
def stored(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of one version's things, as the working directory, to which their paths are relative."""
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path / "stored")
    return tmp_path / "stored"


def test_a_run_is_evaluated_on_its_set_and_exported(stored: Path, call: Call) -> None:
    """The metrics are those that the run wrote."""
    lines = [json.loads(line) for line in (stored / "run" / "metrics.jsonl").read_text().splitlines()]
    told = next(line for line in reversed(lines) if "eval/click/logloss" in line)
    assert call("evaluate", "--workdir=run", "--split=eval", "--out=eval.json")[0] == 0
    report = json.loads(Path("eval.json").read_text())
    assert report["overall"]["click"]["logloss"] == pytest.approx(told["eval/click/logloss"], rel=1e-5)
    assert call("export", "--workdir=run", "--out=again")[0] == 0


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
