"""`tt-jax parity`: its rates against plain counting, its scores against what was served, what it refuses."""

from __future__ import annotations

import dataclasses
import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from serving.index.journal import compact_records
from serving.parity.profile import Profile, compare_profiles
from serving.parity.request_log import LogSettings, RequestLogError
from serving.scorer import Scorer
from serving.scorer_updates import Sources
from tests.support import tiny
from tests.support.cli import Call
from tests.support.journal_service import changed as changed_ads
from tests.support.journal_service import other_index, serving
from tests.support.parity_runs import QUERIES, Line, changed, written
from tests.support.service_calls import post
from tests.support.tiny import EVAL_ROWS, TRAIN_ROWS
from tt_jax.bundle.writer import write_bundle
from tt_jax.cli.parity import Expected, compare, table
from tt_jax.features.encoder import Encoder
from tt_jax.schema import Feature


def test_the_verb_prints_writes_and_exits(
    call: Call, logged: list[Line], tmp_path: Path, tiny_bundle: Path, tiny_index: Path, prepared_path: Path
) -> None:
    arguments = ("parity", f"--bundle={tiny_bundle}", f"--index={tiny_index}", f"--data={prepared_path}", "--requests")
    code, out, err = call(*arguments, written(tmp_path, logged), f"--out={tmp_path}")
    report = json.loads((tmp_path / "parity.json").read_text())
    assert (code, err, report["findings"]) == (0, "", [])
    assert "score: 720 compared" in out
    assert report["queries"] == QUERIES
    assert report["bundle"] == json.loads((tiny_bundle / "manifest.json").read_text())["fingerprint"]
    scores = report["scores"]
    assert scores["score"]["compared"] == 3 * QUERIES
    assert scores["probability"]["compared"] == 3 * QUERIES * len(tiny.SCHEMA.heads)
    assert 0 <= scores["score"]["mean"] <= scores["score"]["largest"] < 1e-5
    why = (
        f"PASS: none of 6 query features differs from training by more than allowed; all {QUERIES} queries "
        "got the scores of the model."
    )
    assert out.splitlines()[0] == report["verdict"] == why
    page = (tmp_path / "parity.html").read_text()
    assert f'<p role="status">{why}</p>' in page[page.index("<h1>Serving against training</h1>") :]

    flags = (f"--out={tmp_path}", "--max-score-difference=1e9", "--max-missing=0.08", "--max-out-of-range=0.9")
    code, out, err = call(*arguments, written(tmp_path, changed(logged, age=900.0)), *flags)
    report = json.loads((tmp_path / "parity.json").read_text())
    assert (code, err, len(report["findings"])) == (1, "", 1)
    assert out.startswith("FAIL: 1 of 6 query features differs from training by more than allowed; ")
    assert out.splitlines()[1] == f"  1. {report['findings'][0]}"
    assert report["thresholds"]["out_of_range"] == 0.9
    page = (tmp_path / "parity.html").read_text()
    for finding in report["findings"]:
        assert out.count(finding) == 1
        assert page.count(html.escape(finding)) == 1
    assert page.index(html.escape(report["verdict"])) < page.index(html.escape(report["findings"][0]))
    assert page.count("<svg role=") == 4  # one for each rate
    assert report["bundle"] in page
    assert report["index"] in page
    assert not {"<script", "http:", "https:", "url("} & set(page.split())
    found = report["features"]["age"]["out_of_range"]
    assert f"<td>{found['training']:.4f}</td><td>1.0000</td>" in page
    code, _, _ = call(*arguments, tmp_path / "log.jsonl", *flags, "--ignore=age")
    assert code == 0


def test_the_rates_are_those_of_plain_counting(parity, logged: list[Line]) -> None:
    report = parity(logged)
    rng = np.random.default_rng(0)  # as the fixture drew them, ads first
    tiny.ads_table(rng, 40)
    train, held_out = tiny.columns(rng, TRAIN_ROWS), tiny.columns(rng, EVAL_ROWS)
    served = {name: [line["query"][name] for line in logged] for name in train if name in logged[0]["query"]}
    assert (report["training"]["rows"], report["training"]["held_out"]) == (TRAIN_ROWS, EVAL_ROWS)

    def absent(value: Any) -> bool:
        return value is None or value == []

    for name, figures in report["features"].items():
        for side, columns in (("training", train), ("serving", served)):
            missing = np.mean([absent(v) for v in columns[name]])
            assert figures["missing"][side] == pytest.approx(missing)
            same_as_missing = {"country": lambda v: absent(v) or v == "us"}.get(name, absent)
            assert figures["default"][side] == pytest.approx(np.mean([same_as_missing(v) for v in columns[name]]))
    for name, known in (("country", tiny.COUNTRIES), ("interests", tiny.TOPICS)):
        for side, columns in (("training", held_out), ("serving", served)):
            values = [v[:3] if isinstance(v, list) else [v] for v in columns[name] if not absent(v)]
            flat = [v for some in values for v in some if v != "us"]
            unseen = report["features"][name]["unseen"][side]
            assert unseen == pytest.approx(np.mean([v not in known for v in flat]))
            assert unseen > 0.05
    assert set(report["features"]["query_embedding"]) == {"missing", "default"}
    ages = [[v for v in columns["age"] if v is not None] for columns in (train, served)]
    distance = report["features"]["age"]["distance"]["difference"]
    assert distance == pytest.approx(scipy.stats.ks_2samp(*ages).statistic)
    assert report["features"]["age"]["out_of_range"]["serving"] == 0


MISSING, DEFAULT, UNSEEN = (
    "missing in ",
    "encoded as if missing in ",
    " ids are ones that training never had",
)
RANGE, DISTANCE = " numbers are out of its range", "the distribution of its numbers has a distance of "


@pytest.mark.parametrize(
    ("features", "figures"),
    [
        ({"age": lambda i: None if i % 2 else 30.0}, {MISSING, DISTANCE}),
        ({"age": 900.0}, {RANGE, DISTANCE}),
        ({"age": lambda i: 18.0 + i % 20}, {DISTANCE}),
        ({"country": "us"}, {DEFAULT}),
        ({"country": lambda i: ("xx", "de")[i % 2]}, {DEFAULT, UNSEEN}),
        ({"query_embedding": [0.0, 0.0, 0.0]}, {DEFAULT}),
        ({"history": None}, {MISSING}),
    ],
)
def test_what_serving_does_differently_is_found_once(
    parity, logged: list[Line], features: dict[str, Any], figures: set[str]
) -> None:
    """A line a feature, with each figure that is past its threshold; what is missing is not told again as default."""
    lines = [{**line, "ads": line["ads"][:1]} for line in changed(logged, **features)]
    report = parity(lines, score=1e9, missing=0.12, default=0.12)
    (name,), (finding,) = features, report["findings"]
    assert finding.startswith(f"{name}: ")
    parts = finding.removeprefix(f"{name}: ").split("; ")
    assert {
        next(kind for kind in (DEFAULT, MISSING, UNSEEN, RANGE, DISTANCE) if kind in part) for part in parts
    } == figures
    assert parity(lines, ignored=name, score=1e9)["findings"] == []


def test_findings_stand_by_how_far_they_are_past(parity, logged: list[Line]) -> None:
    """Scores first; then features by how many times their threshold they are off."""
    lines = changed(logged, age=lambda i: None if i % 3 == 0 else 30.0 + i % 40, history=None, country="xx")
    report = parity(lines)
    assert report["findings"][0].startswith("scores: ")
    off = []
    for finding in report["findings"][1:]:
        figures = report["features"][finding.split(":")[0]]
        off.append(max(abs(f["difference"]) / report["thresholds"][name] for name, f in figures.items()))
    assert (len(off), off) == (3, sorted(off, reverse=True))
    assert report["verdict"].startswith("FAIL: 3 of 6 query features differ from training by more than allowed; ")
    assert re.search(
        rf"; {report['wrong_scores']} of {QUERIES} checked queries got other scores than ", report["verdict"]
    )
    assert 0 < report["wrong_scores"] <= QUERIES


def test_scores_that_this_model_would_not_give_are_found(parity, logged: list[Line]) -> None:
    lines = json.loads(json.dumps(logged))
    lines[7]["ads"][1]["probabilities"]["click"] += 0.001
    report = parity(lines)
    (finding,) = report["findings"]
    assert finding.startswith(
        f"scores: 1 of {QUERIES} checked queries got other scores than those of the model, off by up to 0.001 of a "
        f"probability (0.0001 is allowed); most off is the click of ad {lines[7]['ads'][1]['id']} in "
    )
    assert report["scores"]["probability"]["largest"] == pytest.approx(0.001, abs=1e-5)
    lines[9]["ads"][2]["score"] *= 1.5
    report = parity(lines, score=0.1)
    worst = report["scores"]["worst"]
    assert (worst["line"], worst["ad"]) == (10, lines[9]["ads"][2]["id"])
    assert f"the score of ad {worst['ad']} in {worst['file']}, line 10: " in report["findings"][0]
    assert worst["served"] == pytest.approx(1.5 * worst["replayed"], rel=1e-4)
    served = changed(logged, age=lambda i: 79.0)  # the service encoded something else than it logged
    assert parity(served)["scores"]["score"]["largest"] > 0.01


def test_a_line_that_this_pair_cannot_have_answered_is_refused(
    expected: Expected, logged: list[Line], tmp_path: Path
) -> None:
    def refused(lines: list[Line] | str) -> str:
        with pytest.raises(RequestLogError) as e:
            compare(expected, [written(tmp_path, lines)])
        return str(e.value)

    good, path = logged[:3], tmp_path / "log.jsonl"
    for line, message in (
        ({"query": {"contry": "de"}}, "feature 'contry': unknown query feature; did you mean 'country'?"),
        ({"query": {"age": "old"}}, "feature 'age': expected a number, got 'old'"),
        ({"ads": [{"id": -1, "score": 1.0, "probabilities": {}}]}, "ad_ids of query 0: 1 unknown ad ids: -1"),
        ({"ads": [{**good[0]["ads"][0], "probabilities": {}}]}, f"ad {good[0]['ads'][0]['id']}: expected probabilities "
                                                                "of click, conversion, teacher"),
        ({"k": "ten"}, "not a logged query: Expected `int`, got `str` - at `$.k`"),
        ({"more": 1}, "not a logged query: Object contains unknown field `more`"),
    ):  # fmt: skip
        assert refused([*good, {**good[0], **line}]) == f"{path}, line 4: {message}"
    assert refused("{}\n").startswith(f"{path}, line 1: not a logged query: ")
    assert refused("") == f"{path}: no logged query"


def test_other_input_that_does_not_fit_is_refused(
    call: Call, logged: list[Line], tmp_path: Path, tiny_bundle: Path, tiny_index: Path, prepared_path: Path,
    told_path: Path,
) -> None:  # fmt: skip
    def refused(*flags: str, data: Path = prepared_path, path: Path | None = None) -> str:
        arguments = (f"--bundle={tiny_bundle}", f"--index={tiny_index}", f"--data={data}", "--requests")
        return call.refused("parity", *arguments, path or written(tmp_path, logged[:3]), *flags)

    assert refused("--ignore=aeg") == "--ignore: unknown query feature 'aeg'; did you mean 'age'?"
    assert "unknown split 'trian'; did you mean 'train'?" in refused("--train-splits=trian")
    assert refused(data=told_path).startswith(f"{told_path}: prepared with other features than those of ")
    assert str(tmp_path / "none") in refused(path=tmp_path / "none")


@pytest.mark.parametrize("known", [0, 200])
def test_queries_of_pairs_that_are_not_given_are_compared_but_for_their_scores(
    parity, logged: list[Line], known: int
) -> None:
    """Of this index after changes, of another one, and of another bundle whose schema is another: counted and told."""
    wrong = [{**logged[0]["ads"][0], "score": 1e6}]
    index = logged[0]["index"]
    lines = [{**line, "ads": wrong, "index": f"{index}+{i}.abc"} for i, line in enumerate(logged[known:], 1)]
    other = {"bundle": "b" * 64, "index": "i" * 64, "ads": wrong}
    lines[:3] = [{**line, **other} for line in changed(lines[:3], age=40.0)]
    lines[1]["query"]["weather"] = "mild"
    lines[2]["query"]["age"] = "old"
    report = parity([*logged[:known], *lines])
    unknown = QUERIES - known - 3
    assert (report["findings"], report["queries"], report["scored"]) == ([], QUERIES, known)
    assert report["not_scored"] == [
        {"bundle": "b" * 64, "index": "i" * 64, "queries": 3, "versions": 1},
        {"bundle": logged[0]["bundle"], "index": index, "queries": unknown, "versions": unknown},
    ]
    assert report["unknown_features"] == {"weather": 1}
    assert report["not_encoded"] == {"feature 'age': expected a number, got 'old'": 1}
    assert report["scores"]["score"]["compared"] == 3 * known
    text, features = table(report), "none of 6 query features differs from training by more than allowed"
    assert (
        f"{unknown} queries were answered by the bundle {logged[0]['bundle'][:12]} and the index {index[:12]} at "
        in text
    )
    assert "1 queries of other bundles have the feature 'weather'" in text
    if known:
        rest = f"{QUERIES - known} were not checked, since pairs that are not given answered them."
        assert report["verdict"] == (
            f"PASS: {features}; all {known} checked queries got the scores of the model; {rest}"
        )
    else:
        assert report["verdict"] == (
            f"PASS for features only: {features}; no score was checked, since none of the {QUERIES} queries was "
            "answered by a pair that is given."
        )
        assert "score: none compared" in text


def test_a_log_of_live_ads_and_of_a_swap(
    call: Call, tiny_bundle: Path, tiny_index: Path, prepared_path: Path, warm_scorer: Scorer, tmp_path: Path
) -> None:
    """Changes of ads, a swap to another model, changes there, and back: each version is known by the journal."""
    bundle, log, rng = tmp_path / "bundle", tmp_path / "log.jsonl", np.random.default_rng(3)
    params, tables = tiny.weights(1)
    golden = tiny.golden_rows(rng, 4)
    write_bundle(
        bundle, schema=tiny.SCHEMA, config=tiny.CONFIG, params=params, tables=tables, metrics={}, golden_rows=golden,
        platforms=("cpu",),
    )  # fmt: skip
    index, journal = other_index(bundle, tmp_path / "index"), tmp_path / "journal"
    queries = tiny.queries(rng, 240)
    sources = Sources(tiny_bundle, tiny_index, journal=journal)
    with serving(sources, warm_scorer, log=LogSettings(log, fraction=1.0)) as (client, admin):
        for part in range(12):
            answer = post(client, {"queries": queries[20 * part : 20 * part + 20], "k": 3})
            best = answer["results"][0]["ads"][0]["id"]
            changed_ads(admin("/admin/ads", {"disable": [best]}))
            if part in (3, 7):
                to = (bundle, index) if part == 3 else (tiny_bundle, tiny_index)
                changed_ads(admin("/admin/load", {"bundle": str(to[0]), "index": str(to[1])}))
            if part == 5:
                ads = client.app.state.service.batcher.scorer.ads
                compact_records(journal, None, ads, 1)  # the two versions between are forgotten
    arguments = ["parity", f"--bundle={tiny_bundle}", f"--index={tiny_index}", f"--data={prepared_path}"]
    arguments += ["--requests", str(log), f"--out={tmp_path}"]
    for flags, scored in (
        ([], 20),
        ([f"--journal={journal}"], 160),
        ([f"--journal={journal}", "--also", str(bundle), str(index)], 220),
    ):
        code, out, err = call(*arguments, *flags)
        report = json.loads((tmp_path / "parity.json").read_text())
        assert (code, err, report["queries"], report["scored"]) == (0, "", 240, scored), out
        assert sum(other["queries"] for other in report["not_scored"]) == 240 - scored
        assert report["scores"]["score"]["compared"] == 3 * scored
        assert report["scores"]["score"]["largest"] < 1e-4


def test_hashed_ids_and_numbers_out_of_range() -> None:
    """Rates that the tiny set cannot show: a table large enough not to collide, a number with a tail."""
    features = (
        Feature("user", "categorical", "query", dtype="int", dim=4, hash_size=1_000_000),
        Feature("last", "sequence", "query", dtype="int", dim=4, max_length=2, hash_size=1_000_000),
        Feature("x", "numeric", "query", clip=5.0),
        Feature("never", "numeric", "query"),
        Feature("ad_id", "categorical", "ad", dtype="int", dim=4, hash_size=10),
    )
    schema = dataclasses.replace(tiny.SCHEMA, features=features, slices=())
    encoder, rng = Encoder(schema), np.random.default_rng(0)

    def profile(known: Profile | None, users: range, values: np.ndarray) -> Profile:
        queries = [{"user": u, "last": [1, 2, u], "x": float(v)} for u, v in zip(users, values, strict=True)]
        found = Profile(schema, known)
        for part in (queries[:300], queries[300:]):
            encoded = encoder.encode_queries(part)
            found.add(encoded.arrays["query_ids"], encoded.arrays["query_floats"], encoded.missing)
        return found

    training = profile(None, range(2000), rng.normal(size=2000))
    held_out = profile(training, range(1900, 2100), rng.normal(size=200))
    served = rng.normal(size=1000)
    served[:70] = 4.9
    serving = profile(training, range(1500, 2500), served)
    found = compare_profiles(training, held_out, serving)
    assert found["user"]["unseen"]["training"] == pytest.approx(0.5, abs=0.01)
    assert found["user"]["unseen"]["serving"] == pytest.approx(0.5, abs=0.01)
    assert found["last"]["unseen"]["serving"] == pytest.approx(0.25, abs=0.01)  # the two newest are kept: 2, user
    assert found["x"]["out_of_range"]["training"] <= 0.001
    assert found["x"]["out_of_range"]["serving"] == pytest.approx(0.07, abs=0.005)
    interval = found["x"]["out_of_range"]
    exact = scipy.stats.binomtest(round(interval["serving"] * 1000), 1000).proportion_ci(method="wilson")
    assert interval["low"] == pytest.approx(exact.low - interval["training"], abs=1e-4)
    assert interval["high"] == pytest.approx(exact.high - interval["training"], abs=1e-4)
    assert found["never"] == {name: {**dict.fromkeys(("training", "serving"), 1.0), "difference": 0.0, "low":
                                     pytest.approx(-0.0038, abs=1e-4), "high": pytest.approx(0.0, abs=1e-9)}
                              for name in ("missing", "default")}  # fmt: skip
