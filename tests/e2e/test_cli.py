"""The command line: help, and bad input told in one line with exit code 2 and nothing half-written."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from input_pipeline.prepare.sequential import prepare
from input_pipeline.readers import Chunk
from serving.index.ad_index import index_table
from tests.support import run_configs, tiny
from tests.support.cli import Call
from tests.support.paths import KUAIRAND
from tt_jax.bundle.reader import Bundle
from tt_jax.bundle.writer import write_bundle
from tt_jax.cli.main import VERBS
from tt_jax.config.registry import LOSSES

RUN_CONFIG = run_configs.__file__


def test_plugins_are_imported_before_the_verb_runs(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plugin = tmp_path / "kinds.py"
    plugin.write_text("from tt_jax.config.registry import LOSSES\nLOSSES.register('of_a_file')(abs)\n")
    for value, error in (
        (str(plugin), f"{tmp_path}: no config.json; expected a directory that `tt-jax train` wrote"),
        ("no_such", "TT_JAX_PLUGINS: no_such: No module named 'no_such'"),
        (f"{plugin},no_such.py", "TT_JAX_PLUGINS: no file no_such.py"),
    ):
        monkeypatch.setenv("TT_JAX_PLUGINS", value)
        assert call.refused("export", f"--workdir={tmp_path}", f"--out={tmp_path / 'out'}") == error
    assert LOSSES["of_a_file"] is abs


@pytest.fixture(scope="module")
def lopsided_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared set with rows of one scenario only, and an eval split without any."""
    rng = np.random.default_rng(3)

    def chunks() -> Iterator[Chunk]:
        table = pa.table(tiny.columns(rng, 200))
        table = table.set_column(table.column_names.index("scenario"), "scenario", pa.array(["shopping"] * 200))
        yield Chunk("train", "train.parquet", 0, table)
        yield Chunk("eval", "eval.parquet", 0, table.slice(0, 0))

    out = tmp_path_factory.mktemp("lopsided") / "set"
    prepare(tiny.SCHEMA, chunks(), out)
    return out


@pytest.fixture
def other_index(tmp_path: Path) -> Path:
    """An index made by another bundle than `tiny_bundle`."""
    params, tables = tiny.weights(seed=5)
    golden = tiny.golden_rows(np.random.default_rng(1), 2)
    arguments = {"schema": tiny.SCHEMA, "config": tiny.CONFIG, "params": params, "tables": tables, "metrics": {}}
    write_bundle(tmp_path / "other_bundle", **arguments, golden_rows=golden, platforms=("cpu",))
    ads = tiny.ads_table(np.random.default_rng(2), 20)
    index_table(Bundle.load(tmp_path / "other_bundle"), ads).save(tmp_path / "other_index")
    return tmp_path / "other_index"


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_shows_its_example(call: Call, verb: str) -> None:
    code, out, err = call(verb, "--help")
    example = importlib.import_module(f"tt_jax.cli.{verb}").EXAMPLE
    assert (code, err) == (0, "")
    assert f"  tt-jax {verb} " in example
    assert out.startswith(f"usage: tt-jax {verb} ")
    assert out.endswith(f"example:\n{example}\n")


def test_the_help_lists_the_verbs(call: Call) -> None:
    code, out, err = call("--help")
    assert (code, err) == (0, "")
    for verb, text in VERBS.items():
        assert f"  {verb:<12}{text}" in out
    code, again, err = call()
    assert (code, again, err) == (2, out, "tt-jax: error: expected a verb\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("trian",), "unknown verb 'trian'; did you mean 'train'?"),
        (("train",), "the following arguments are required: --workdir; see `tt-jax train --help`"),
        (("serve", "--bundle=b", "--index=i", "--port=http"), "argument --port: invalid int value: 'http'; see"),
        (("index", "--bundle=b", "--ads=a", "--out=o", "--bogus"), "unknown argument '--bogus'; see"),
        (("prepare", "kuirand", "--out=o"), "unknown recipe 'kuirand'; did you mean 'kuairand'?"),
        (("prepare", "kuairand", "--out=o"), "prepare kuairand: expected --source"),
        (("quickstart", "--requests=0"), "AdWorldConfig.requests_per_day: expected >= 1, got 0"),
    ],
)
def test_wrong_arguments(call: Call, arguments: tuple[str, ...], message: str) -> None:
    assert call.refused(*arguments).startswith(message)


def test_files_that_are_not_there(call: Call, tmp_path: Path, tiny_bundle: Path, tiny_index: Path) -> None:
    absent, out = tmp_path / "absent", tmp_path / "out"
    for arguments in (
        ("prepare", "adworld", f"--source={absent}", f"--out={out}"),
        ("prepare", "kuairand", f"--source={absent}", f"--out={out}"),
        ("train", f"--config={absent}", f"--workdir={out}"),
        ("train", f"--config={RUN_CONFIG}", f"--config.data.path={absent}", f"--workdir={out}"),
        ("evaluate", f"--workdir={absent}"),
        ("regret", f"--workdir={absent}", f"--world={tmp_path}"),
        ("export", f"--workdir={absent}", f"--out={out}"),
        ("index", f"--bundle={absent}", f"--ads={_ads(tmp_path)}", f"--out={out}"),
        ("index", f"--bundle={tiny_bundle}", f"--ads={absent}", f"--out={out}"),
        ("score", f"--bundle={tiny_bundle}", f"--index={tiny_index}", f"--request={absent}"),
        ("serve", f"--bundle={tiny_bundle}", f"--index={absent}"),
    ):
        assert str(absent) in call.refused(*arguments)
        assert [p.name for p in tmp_path.iterdir() if p.name != "ads.parquet"] == []


def test_a_wrong_configuration(call: Call, tmp_path: Path, prepared_path: Path, lopsided_path: Path) -> None:
    def refused(*overrides: str, data: Path = prepared_path) -> str:
        config = (f"--config={RUN_CONFIG}", f"--config.data.path={data}")
        error = call.refused("train", *config, f"--workdir={tmp_path / 'run'}", *overrides)
        assert list(tmp_path.iterdir()) == []
        return error

    assert refused("--config.model.expertz=3").endswith("'model.expertz'; did you mean 'model.experts'?")
    assert refused("--config.data.scenarios=shoping").endswith("'shoping'; did you mean 'shopping'?")
    assert refused("--config.data.train_splits=trian").endswith("'trian'; did you mean 'train'?")
    assert "unknown name 'clck'; did you mean 'click'?" in refused("--config.utility=bid * clck")
    assert refused("--config.data.scenarios=standard", data=lopsided_path) == (
        f"{lopsided_path}: the scenario 'standard' has no rows in the split 'train'"
    )
    assert refused(data=lopsided_path) == f"{lopsided_path}: the split 'eval' is empty"


def test_what_is_no_bundle_or_not_the_bundle_of_the_index(
    call: Call, tmp_path: Path, prepared_path: Path, tiny_bundle: Path, other_index: Path
) -> None:
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"query": {}}))
    expected = f"{prepared_path}/manifest.json: expected 'tt-jax bundle' version 2, found 'tt-jax bundle' version 1"
    assert call.refused(
        "index", f"--bundle={prepared_path}", f"--ads={_ads(tmp_path)}", f"--out={tmp_path / 'out'}"
    ).startswith(expected)
    assert not (tmp_path / "out").exists()
    served = (f"--bundle={tiny_bundle}", f"--index={other_index}")
    for arguments in (("score", *served, f"--request={request}"), ("serve", *served)):
        assert call.refused(*arguments).startswith("the index was made by the bundle ")


def test_what_exists_is_not_written_over(call: Call, tmp_path: Path, prepared_path: Path, tiny_bundle: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for arguments in (
        ("prepare", "kuairand", f"--source={KUAIRAND}"),
        ("index", f"--bundle={tiny_bundle}", f"--ads={prepared_path / 'ads.parquet'}"),
    ):
        assert call.refused(*arguments, f"--out={out}") == f"{out}: already exists; remove it, or choose another name"
    assert list(tmp_path.rglob("*")) == [out]


@pytest.mark.parametrize("name", ["train", "user_features"])
def test_a_truncated_log_leaves_nothing(call: Call, tmp_path: Path, name: str) -> None:
    source, out = tmp_path / "source", tmp_path / "new" / "out"
    shutil.copytree(KUAIRAND, source, copy_function=shutil.copyfile)
    source.chmod(0o755)
    file = source / f"{name}.parquet"
    file.write_bytes(file.read_bytes()[:100_000])
    assert call.refused("prepare", "kuairand", f"--source={source}", f"--out={out}").startswith(
        f"{file}: not readable as Parquet from row 0 on: "
    )
    assert not out.exists()
    assert not out.parent.exists() or list(out.parent.iterdir()) == []


def test_score_ranks_the_ads_of_a_request(call: Call, tmp_path: Path, tiny_bundle: Path, tiny_index: Path) -> None:
    path = tmp_path / "request.json"
    arguments = ("score", f"--bundle={tiny_bundle}", f"--index={tiny_index}", f"--request={path}")
    path.write_text(json.dumps({"query": {"country": "de", "age": 30}}))
    code, out, err = call(*arguments, "--k=3")
    ads = json.loads(out)["ads"]
    assert (code, err) == (0, "")
    assert [list(ad) for ad in ads] == [["id", "score", "probabilities"]] * 3
    assert sorted((ad["score"] for ad in ads), reverse=True) == [ad["score"] for ad in ads]
    for text, message in (
        ("{", "not valid JSON"),
        ('{"query": NaN}', "NaN is not JSON"),
        ("[]", 'expected {"query": {feature: value, ...}}'),
        ('{"query": {}, "k": 3}', "unknown key 'k'; expected query, candidates"),
        ('{"query": {"contry": "de"}}', "did you mean 'country'?"),
    ):
        path.write_text(text)
        error = call.refused(*arguments)
        assert error.startswith(f"{path}: ")
        assert message in error


def _ads(folder: Path) -> Path:
    pq.write_table(tiny.ads_table(np.random.default_rng(2), 20), folder / "ads.parquet")
    return folder / "ads.parquet"
