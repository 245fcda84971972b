"""The KuaiRand-Pure recipe on the real data: its README's counts, the join in plain Python, nothing of the future."""

from __future__ import annotations

import datetime
import math
from collections import Counter
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from configs.kuairand import get_config
from input_pipeline.blocks.manifest import Manifest
from input_pipeline.blocks.prepared_set import PreparedSet
from input_pipeline.prepare.sequential import prepare
from input_pipeline.readers import ReadError
from input_pipeline.recipes import kuairand, load
from tests.support.paths import KUAIRAND
from tt_jax.features.encoder import Encoder
from tt_jax.schema import SchemaError

OUTCOMES = {
    "is_click", "is_like", "is_follow", "is_comment", "is_forward", "is_hate", "long_view", "is_profile_enter",
    "play_time_ms", "profile_stay_time", "comment_stay_time",
}  # fmt: skip
SIDES = ("user_features", "video_features_basic", "user_history")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, PreparedSet]:
    """The whole data set, prepared."""
    out = tmp_path_factory.mktemp("kuairand") / "set"
    manifest = prepare(kuairand.schema(), kuairand.read(KUAIRAND), out, ads=kuairand.ads(KUAIRAND))
    return manifest, PreparedSet.open(out)


def _source(folder: Path, log: pa.Table, sides: tuple[str, ...] = SIDES, name: str = "train.parquet") -> Path:
    """A small source: that log with the real tables beside it."""
    folder.mkdir(exist_ok=True)
    for side in sides:
        (folder / f"{side}.parquet").symlink_to(KUAIRAND / f"{side}.parquet")
    pq.write_table(log, folder / name)
    return folder


def _table(source: Path) -> pa.Table:
    return pa.concat_tables([chunk.table for chunk in kuairand.read(source)])


def test_rows_and_label_rates_are_those_of_the_readme(manifest: tuple[Manifest, PreparedSet]) -> None:
    expected = {
        ("train", "valid"): (154_235, {"click": 0.4431, "long_view": 0.3117, "like": 0.01760}),
        ("eval",): (30_942, {"click": 0.4389, "long_view": 0.3083, "like": 0.01516}),
    }
    assert list(manifest[0].splits) == ["train", "valid", "eval"]
    for splits, (rows, rates) in expected.items():
        counts = [c for split in splits for c in manifest[0].splits[split].values()]
        assert sum(c.rows for c in counts) == rows
        for task, rate in rates.items():
            ones = sum(c.rate[task] * c.labelled[task] for c in counts if c.rows)  # pyright: ignore[reportOptionalOperand]
            assert ones / rows == pytest.approx(rate, abs=5e-5)


def test_scenarios_are_the_tabs(manifest: tuple[Manifest, PreparedSet]) -> None:
    for file, splits in (("train", ("train", "valid")), ("eval", ("eval",))):
        tabs = Counter(pq.read_table(KUAIRAND / f"{file}.parquet")["tab"].to_pylist())
        rows = {name: sum(manifest[0].splits[s][name].rows for s in splits) for name in kuairand.SCENARIOS}
        for tab in kuairand.TABS:
            assert rows[f"tab{tab}"] == tabs.pop(tab)
        assert rows["other"] == sum(tabs.values())


def test_the_last_day_of_train_is_valid(manifest: tuple[Manifest, PreparedSet]) -> None:
    beijing, prepared = datetime.timezone(datetime.timedelta(hours=8)), manifest[1]
    position = prepared.schema.key_columns.index("time_ms")
    spans = {}
    for split in ("train", "valid", "eval"):
        blocks = prepared.blocks((split,), arrays=("keys",))
        times = np.concatenate([blocks[i]["keys"][:, position] for i in range(len(blocks))])
        spans[split] = [
            datetime.datetime.fromtimestamp(int(t) / 1000, beijing).date() for t in (times.min(), times.max())
        ]
    assert spans["train"][1] == datetime.date(2022, 5, 2)
    assert spans["valid"] == [datetime.date(2022, 5, 3)] * 2
    assert spans["eval"][0] == datetime.date(2022, 5, 4)


def test_no_outcome_is_a_feature_and_features_do_not_depend_on_outcomes(tmp_path: Path) -> None:
    schema = kuairand.schema()
    assert not OUTCOMES & {f.name for f in schema.features}
    log = pq.read_table(KUAIRAND / "train.parquet").slice(70_000, 500)
    other = log.slice(100, 200)  # neither do they depend on the rows around, before or after
    for name in OUTCOMES:
        flipped = pc.subtract(pa.scalar(1, other[name].type), other[name])
        other = other.set_column(other.column_names.index(name), name, flipped)
    whole, part = (_table(_source(tmp_path / n, t)) for n, t in (("a", log), ("b", other)))
    for feature in schema.features:
        assert whole[feature.name].slice(100, 200).equals(part[feature.name]), feature.name


def test_every_label_and_feature_of_a_row_against_plain_python(tmp_path: Path) -> None:
    log = pq.read_table(KUAIRAND / "eval.parquet").take(pa.array(np.arange(0, 30_942, 300)))
    users = {r["user_id"]: r for r in pq.read_table(KUAIRAND / "user_features.parquet").to_pylist()}
    videos = {r["video_id"]: r for r in pq.read_table(KUAIRAND / "video_features_basic.parquet").to_pylist()}
    histories = {r["user_id"]: r for r in pq.read_table(KUAIRAND / "user_history.parquet").to_pylist()}
    beijing = datetime.timezone(datetime.timedelta(hours=8))
    watched, liked = Counter(), Counter()
    for h in histories.values():
        likes = set(h["like_seq"])
        watched.update(h["watch_seq"])
        liked.update(v for v in h["watch_seq"] if v in likes)
    like_rate = (liked.total() + 1) / (watched.total() + 2)

    def log_odds(hits: int, of: int) -> float:
        rate = (hits + 30 * like_rate) / (of + 30)
        return math.log(rate / (1 - rate))

    def tags(ids: list[int]) -> list[int]:
        return [int(t) for v in ids if videos[v]["tag"] for t in videos[v]["tag"].split(",")]

    for raw, row in zip(log.to_pylist(), _table(_source(tmp_path / "s", log)).to_pylist(), strict=True):
        user, video, history = users[raw["user_id"]], videos[raw["video_id"]], histories.get(raw["user_id"])
        time = datetime.datetime.fromtimestamp(raw["time_ms"] / 1000, beijing)
        assert row["scenario"] == (f"tab{raw['tab']}" if raw["tab"] in kuairand.TABS else "other")
        assert row["hour"] == time.hour
        began = datetime.datetime(2022, 4, 25, tzinfo=beijing)
        assert row["day"] == pytest.approx((time - began) / datetime.timedelta(days=1), abs=1e-6)
        for name in ("is_click", "long_view", "is_like", "user_id", "video_id", "time_ms", "tab"):
            assert row[name] == raw[name]
        for name in ("user_active_degree", "fans_user_num_range", "onehot_feat3", "onehot_feat4", "register_days"):
            assert row[name] == user[name]
        for name in ("author_id", "music_id", "music_type", "video_type", "upload_type", "video_duration"):
            assert row[name] == video[name]
        assert (row["tag"] or []) == tags([raw["video_id"]])
        assert row["upload_age"] == (datetime.date(2022, 4, 25) - datetime.date.fromisoformat(video["upload_dt"])).days
        if video["video_duration"] is not None:
            assert row["duration_bucket"] == min(23, math.floor(2 * math.log2(video["video_duration"] / 1000)))
        assert row["video_watches"] == (watched[raw["video_id"]] or None)
        if watched[raw["video_id"]]:
            expected = log_odds(liked[raw["video_id"]], watched[raw["video_id"]])
            assert row["video_like_log_odds"] == pytest.approx(expected)
        for name in ("watch_seq", "like_seq", "long_watch_seq", "history_len"):
            assert row[name] == (history and history[name])
        if history:
            assert row["long_watch_tags"] == tags(history["long_watch_seq"])
            hits = sum(v in set(history["like_seq"]) for v in history["watch_seq"])
            assert row["user_like_log_odds"] == pytest.approx(log_odds(hits, len(history["watch_seq"])))
        else:
            assert row["user_like_log_odds"] is None
            assert row["long_watch_tags"] is None


def test_numbers_are_normalised_and_ids_are_in_their_vocabulary(manifest: tuple[Manifest, PreparedSet]) -> None:
    prepared = manifest[1]
    blocks = prepared.blocks(("train",))
    read = [blocks[i] for i in range(len(blocks))]
    for tower in ("query", "ad"):
        floats, ids = (np.concatenate([b[f"{tower}_{kind}"] for b in read]) for kind in ("floats", "ids"))
        layout = prepared.schema.layout[tower]
        for name, first, last in layout.floats:
            present = floats[floats[:, last - 1] == 1, first] if last - first == 2 else floats[:, first]
            assert abs(present.mean()) < 0.2, name
            assert 0.7 < present.std() < 1.3, name
        for name, first, last in layout.ids:
            assert (ids[:, first:last] != 1).all(), f"{name} has values outside its vocabulary"
            assert len(np.unique(ids[:, first:last])) > 1, f"{name} is constant"


def test_the_corpus_has_every_video_encoded_as_in_the_log(manifest: tuple[Manifest, PreparedSet]) -> None:
    ads = pq.read_table(manifest[1].root / "ads.parquet")
    assert ads.num_rows == 7583
    assert ads["eligible"].to_pylist() == [True] * 7583
    assert set(ads["bid"].to_pylist()) == {1.0}
    columns = dict(zip(ads.column_names, ads.columns, strict=True))
    corpus = Encoder(kuairand.schema()).encode(columns, ("ad",), outcomes=False).arrays
    block = manifest[1].blocks(("eval",), ("tab6",))[0]
    position = manifest[1].schema.key_columns.index("video_id")
    row_of = {video: i for i, video in enumerate(ads["video_id"].to_pylist())}
    rows = [row_of[int(v)] for v in block["keys"][:, position]]
    np.testing.assert_array_equal(corpus["ad_ids"][rows], block["ad_ids"])
    np.testing.assert_array_equal(corpus["ad_floats"][rows], block["ad_floats"])


def test_the_owners_csv_files_give_the_same_rows(tmp_path: Path) -> None:
    parts = [pq.read_table(KUAIRAND / f"{split}.parquet").slice(0, 300) for split in ("eval", "train")]
    first_of_test = 1_651_766_400_000
    late = parts[0].slice(0, 5).set_column(4, "time_ms", pa.array([first_of_test - 1, *[first_of_test] * 4]))
    early = parts[1].slice(0, 7).set_column(2, "date", pa.array([20220424] * 7, pa.int32()))
    source = tmp_path / "owners"
    source.mkdir()
    csv.write_csv(pa.concat_tables([early, *parts, late]), source / "log_standard_4_22_to_5_08_pure.csv")
    for side in SIDES[:2]:
        csv.write_csv(pq.read_table(KUAIRAND / f"{side}.parquet"), source / f"{side}_pure.csv")
    chunks = list(kuairand.read(source))
    assert [(c.split, c.table.num_rows) for c in chunks] == [("train", 300), ("eval", 301), ("test", 4)]
    assert [chunks[0].row_number(0), chunks[1].row_number(300), chunks[2].row_number(3)] == [307, 607, 611]
    plain = _table(_source(tmp_path / "parquet", parts[1], SIDES[:2]))
    encoder = Encoder(kuairand.schema())
    from_csv, from_parquet = (
        encoder.encode(dict(zip(t.column_names, t.columns, strict=True))) for t in (chunks[0].table, plain)
    )
    for name, matrix in from_parquet.arrays.items():
        np.testing.assert_array_equal(from_csv.arrays[name], matrix)
    assert from_csv.missing == from_parquet.missing
    assert all(from_csv.missing[n] == 300 for n in ("watch_seq", "history_len", "user_like_log_odds", "video_watches"))
    assert from_csv.missing["user_active_degree"] == 0


def test_a_url_is_read_as_a_directory(tmp_path: Path) -> None:
    source = _source(tmp_path / "s", pq.read_table(KUAIRAND / "train.parquet").slice(0, 50))
    for path in source.iterdir():
        fsspec.filesystem("memory").put_file(str(path), f"/{tmp_path.name}/{path.name}")
    url = f"memory://{tmp_path.name}"
    assert kuairand.ads(url) == kuairand.ads(source)
    (chunk,) = kuairand.read(url)
    assert chunk.table == _table(source)
    assert chunk.file == f"memory:///{tmp_path.name}/train.parquet"
    with pytest.raises(ReadError, match=r"^memory://none: expected user_features"):
        kuairand.ads("memory://none")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    log = pq.read_table(KUAIRAND / "train.parquet").slice(0, 20)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReadError, match="empty: expected user_features"):
        list(kuairand.read(tmp_path / "empty"))
    source = _source(tmp_path / "nolog", log, name="validation.parquet")
    with pytest.raises(ReadError, match=r"no log: expected train\.parquet"):
        list(kuairand.read(source))
    source = _source(tmp_path / "column", log.rename_columns([n.replace("tab", "tabs") for n in log.column_names]))
    with pytest.raises(ReadError, match=r"train\.parquet: no column 'tab'; did you mean 'tabs'"):
        list(kuairand.read(source))
    tabs = pa.array([1] * 19 + [None], pa.int8())
    source = _source(tmp_path / "null", log.set_column(log.column_names.index("tab"), "tab", tabs))
    with pytest.raises(SchemaError, match=r"train\.parquet: column 'scenario', row 19: the scenario is missing"):
        prepare(kuairand.schema(), kuairand.read(source), tmp_path / "out")
    with pytest.raises(ValueError, match="unknown recipe 'kuairnd'; did you mean 'kuairand'"):
        load("kuairnd")
    assert load("kuairand") is kuairand


def test_selection_never_sees_eval() -> None:
    for argument, scenarios, splits, eval_split in (
        ("", (), ("train", "valid"), "eval"),
        ("tab1", ("tab1",), ("train", "valid"), "eval"),
        ("select", (), ("train",), "valid"),
        ("tab1,select", ("tab1",), ("train",), "valid"),
    ):
        data = get_config(argument).data
        assert (data.scenarios, data.train_splits, data.eval_split) == (scenarios, splits, eval_split)
    with pytest.raises(ValueError, match="argument 'tab1,tab0': two values of 'scenario'"):
        get_config("tab1,tab0")
