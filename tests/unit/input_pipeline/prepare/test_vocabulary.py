"""Vocabularies learned from a log, and the rows that ids get by them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from input_pipeline.blocks.prepared_set import PreparedSet
from input_pipeline.prepare import vocabulary
from input_pipeline.prepare.vocabulary import learn_vocabularies, learns, take_vocabularies
from input_pipeline.readers import Chunk
from tests.support import tiny
from tests.support.vocabularies import chunks, learning
from tt_jax.features.encoder import Encoder
from tt_jax.models.scenario import query_scenarios
from tt_jax.models.two_tower import TwoTower
from tt_jax.schema import SchemaError


def counted(*names: str) -> Counter[Any]:
    """Occurrences in the training splits, counted one by one."""
    found: Counter[Any] = Counter()
    for chunk in chunks():
        for row in chunk.table.to_pylist() if chunk.split != "eval" else ():
            for name in names:
                values = row[name] if isinstance(row[name], list) else [row[name]]
                found.update(v for v in values if v is not None)
    return found


def test_a_vocabulary_is_of_the_frequent_ids_of_all_features_that_share_it_and_of_the_training_splits():
    found = learn_vocabularies(learning(), chunks())
    assert not learns(found)
    ads, users, topics = counted("ad_id", "history"), counted("user"), counted("interests", "topics")
    by_count = [sorted(c, key=lambda v, c=c: (-c[v], v)) for c in (ads, users, topics)]
    assert found.feature("ad_id").vocabulary == tuple(v for v in by_count[0] if ads[v] >= 4)
    assert 10 < len(found.feature("ad_id").vocabulary) < len(ads)
    assert found.feature("user").vocabulary == tuple(by_count[1][:7])
    assert found.feature("interests").vocabulary == tuple(by_count[2])
    assert any(users[v] == users[by_count[1][6]] for v in by_count[1][7:])  # a tie was cut


@pytest.mark.parametrize(("pieces", "reverse"), [(8, False), (60, True)])
def test_chunks_and_order_do_not_matter(pieces, reverse):
    assert learn_vocabularies(learning(), chunks(600, pieces, reverse)) == learn_vocabularies(learning(), chunks())


def test_rows_of_a_vocabulary_and_behind_them_those_that_the_other_ids_share():
    found = learn_vocabularies(learning(), chunks())
    user, ad = found.feature("user"), found.feature("ad_id")
    assert (user.rows, ad.rows) == (7 + 50, len(ad.vocabulary) + 2)
    names = [*user.vocabulary, "a stranger", "another"]
    columns = {n: [None] * 9 for n in tiny.query_columns(np.random.default_rng(0), 0)} | {"user": names}
    ids = Encoder(found).encode(columns, ("query",), outcomes=False).arrays["query_ids"][:, 0]
    assert ids[:7].tolist() == list(range(2, 9))
    assert all(9 <= row < user.rows for row in ids[7:])
    hashed = Encoder(tiny.SCHEMA).encode(columns, ("query",), outcomes=False).arrays["query_ids"][:, 0]
    assert (ids[7:] - hashed[7:] == 7).all()


def test_a_bad_column_ends_the_reading_or_does_not_count():
    def logs() -> Iterator[Chunk]:
        yield from chunks()
        yield Chunk("train", "bad.parquet", 0, pa.table({"user": pa.array([1.5]), "ad_id": [1], "interests": [["x"]]}))

    with pytest.raises(SchemaError, match=r"bad\.parquet: column 'user': expected strings, got double"):
        learn_vocabularies(learning(), logs())
    found = learn_vocabularies(learning(), logs(), strict=False)
    assert found.feature("user") == learn_vocabularies(learning(), chunks()).feature("user")


def test_what_cannot_be_learned_is_told(monkeypatch):
    with pytest.raises(SchemaError, match=r"'ad_id': no id .* none occurs 1000 times"):
        learn_vocabularies(learning({"ad_id": {"min_count": 1000, "hash_size": 0}}), chunks())
    few = learn_vocabularies(learning({"ad_id": {"min_count": 1000}}), chunks())
    assert few == tiny.SCHEMA  # nothing but the rows to share
    monkeypatch.setattr(vocabulary, "MAX_DISTINCT", 100)
    with pytest.raises(SchemaError, match=r"'(ad_id|history)': more than 100 distinct ids"):
        learn_vocabularies(learning({"ad_id": {"min_count": 2}}), chunks())


def test_a_schema_that_is_yet_to_learn_encodes_nothing_and_makes_no_model():
    for use in (Encoder, lambda schema: TwoTower(schema, tiny.CONFIG.model, "f32").shapes()):
        with pytest.raises(SchemaError, match="feature 'user': its vocabulary is not learned yet"):
            use(learning())


def test_a_scenario_that_only_shares_a_row_is_none_of_the_vocabulary():
    features = (dataclasses.replace(f, hash_size=9) if f.name == "scenario" else f for f in tiny.TOLD.features)
    schema = dataclasses.replace(tiny.TOLD, features=tuple(features))
    ids = Encoder(schema).encode_queries([{"scenario": s} for s in (*tiny.SCENARIOS, "else")]).arrays["query_ids"]
    assert np.asarray(query_scenarios(schema, ids)).tolist() == [0, 1, 2]


FILE = """
from tests.support.vocabularies import chunks, learning

def schema(source):
    return learning()

def read(source, errors):
    return chunks(reverse=source == "tomorrow", rows=300 if source == "tomorrow" else 600)

def ads(source):
    return None
"""


def prepared_by(folder: Path, *arguments: str) -> int:
    from tt_jax.cli.main import main

    (folder / "logs.py").write_text(FILE)
    with pytest.raises(SystemExit) as exit_:
        main(["prepare", str(folder / "logs.py"), *arguments])
    return int(exit_.value.code or 0)


def test_prepare_stores_the_vocabulary_that_it_learned(tmp_path: Path):
    out = tmp_path / "set"
    assert prepared_by(tmp_path, "--source=here", f"--out={out}") == 0
    prepared = PreparedSet.open(out)
    assert prepared.schema == learn_vocabularies(learning(), chunks())
    ids = prepared.blocks(("train",), (), ("ad_ids",))[0]["ad_ids"][:, 0]
    assert 0 < (ids > 1).mean() < 1


def test_tomorrows_set_takes_the_vocabulary_of_todays(tmp_path: Path):
    today, tomorrow = tmp_path / "today", tmp_path / "tomorrow"
    assert prepared_by(tmp_path, "--source=here", f"--out={today}") == 0
    given = ("--source=tomorrow", f"--out={tomorrow}", f"--vocabularies-of={today}")
    assert prepared_by(tmp_path, *given) == 0
    assert PreparedSet.open(tomorrow).schema == PreparedSet.open(today).schema
    assert learn_vocabularies(learning(), chunks(300, reverse=True)) != PreparedSet.open(today).schema
    with pytest.raises(SchemaError, match=r"feature 'user': is to learn a vocabulary, and has none in 'tiny'"):
        take_vocabularies(learning(), learning({"ad_id": {}}))
