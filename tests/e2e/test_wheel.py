"""The wheel, installed outside the checkout: what a bare install does, and what the extra `train` adds."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.wheel import SHIPPED, Environment, build_wheel

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("bare"), wheel)


@pytest.fixture(scope="module")
def training(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("training"), wheel, ("train",))


def test_it_has_our_packages_and_their_other_files_and_no_configs(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = (path for package in SHIPPED for path in (ROOT / package).rglob("*") if path.is_file())
    assert packed == {str(path.relative_to(ROOT)) for path in files if path.suffix != ".pyc"}
    assert {f"{package}/py.typed" for package in SHIPPED} <= packed


SCORE = """
import json, sys
from serving import Scorer
scorer = Scorer.load(sys.argv[1], sys.argv[2], warm=False)
(ads,) = scorer.top_k([json.loads(sys.argv[3])], k=3)
print(json.dumps([[ad.id, ad.score] for ad in ads]))
"""
QUERY = {"country": "fr", "age": 30.0, "history": [3, 5]}


def test_a_bare_install_scores_and_serves(bare: Environment, tiny_bundle, tiny_index, tmp_path) -> None:
    run = bare.run("python", "-c", SCORE, str(tiny_bundle), str(tiny_index), json.dumps(QUERY), cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    ads = json.loads(run.stdout)
    assert len(ads) == 3
    (tmp_path / "request.json").write_text(json.dumps({"query": QUERY}))
    pair = (f"--bundle={tiny_bundle}", f"--index={tiny_index}")
    run = bare.run("tt-jax", "score", *pair, "--request=request.json", "--k=3", cwd=tmp_path)
    assert [[ad["id"], ad["score"]] for ad in json.loads(run.stdout)["ads"]] == ads
    assert bare.run("python", "-c", "import serving.service.app, serving.client", cwd=tmp_path).returncode == 0
    run = bare.run("tt-jax", "serve", "--help", cwd=tmp_path)
    assert run.returncode == 0
    assert run.stdout.startswith("usage: tt-jax serve")


@pytest.mark.parametrize(
    "command", [("train", "--config=run.py", "--workdir=run"), ("prepare", "adworld", "--out=set"), ("quickstart",)]
)
def test_a_verb_without_its_extra_names_it_in_one_line(bare: Environment, command, tmp_path) -> None:
    (tmp_path / "run.py").write_text("from tt_jax import config_dict\n")
    run = bare.run("tt-jax", *command, cwd=tmp_path)
    assert run.returncode == 2
    (line,) = run.stderr.splitlines()[-1:]
    assert line.startswith(f"tt-jax: error: {command[0]} needs ")
    assert line.endswith("; pip install 'tt-jax[train]'")


def test_quickstart_walks_the_whole_path_and_goes_on_where_it_stopped(training: Environment, tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()  # a user's own package of that name, first on the path
    (tmp_path / "configs" / "__init__.py").write_text("raise RuntimeError('configs of the user')\n")
    arguments = ("quickstart", "--workdir=out", "--requests=1000")
    run = training.run("tt-jax", *arguments, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert run.returncode == 0, run.stderr
    assert "Bayes" in run.stdout
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert list(summary["scenarios"]) == ["standard", "shopping"]
    for found in summary["scenarios"].values():
        assert found["rows"] == 4000  # four ads shown for each request of the test day
        assert found["examples_per_s"] > 0
        for figures in found["tasks"].values():
            assert figures["bayes_logloss"] < figures["constant_logloss"]
            assert figures["bayes_logloss"] < figures["logloss"] < 1
        utilities = [ad["score"] for ad in found["top_ads"]]
        assert len(utilities) == 10
        assert utilities == sorted(utilities, reverse=True)
    assert training.run("tt-jax", *arguments, cwd=tmp_path).returncode == 0
    again = json.loads((tmp_path / "out" / "summary.json").read_text())
    for scenario, found in again["scenarios"].items():
        assert found.pop("examples_per_s") is None  # nothing was left to train
        summary["scenarios"][scenario].pop("examples_per_s")
    assert again["scenarios"] == summary["scenarios"]
