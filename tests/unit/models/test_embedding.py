"""Fused tables: which row of which table an id reads."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import tiny
from tests.support.reference_model import MIXED, table_offsets
from tt_jax.models.embedding import Tables, gather
from tt_jax.schema import TOWERS, Feature, SchemaError


@pytest.mark.parametrize("schema", [tiny.SCHEMA, MIXED], ids=["tiny", "mixed"])
def test_every_owner_has_rows_of_its_own_in_the_table_of_its_width(schema):
    tables = Tables(schema)
    taken: dict[str, list[tuple[int, int]]] = {name: [] for name in tables.shapes}
    for name, (table, offset) in table_offsets(schema).items():
        taken[table].append((offset, offset + schema.feature(name).rows))
    for name, (rows, dim) in tables.shapes.items():
        assert name == f"dim{dim}"
        spans = sorted(taken[name])
        assert [0, *(last for _, last in spans)] == [*(first for first, _ in spans), rows]
    for tower in TOWERS:
        columns = [c for group in tables.groups[tower] for c in group.columns]
        assert sorted(columns) == list(range(schema.layout[tower].id_slots))
        for group in tables.groups[tower]:
            assert list(group.columns) == sorted(group.columns)
            for column, offset in zip(group.columns, group.offsets, strict=True):
                name = next(n for n, first, last in schema.layout[tower].ids if first <= column < last)
                owner = schema.table_owner(schema.feature(name)).name
                assert (group.table, offset) == table_offsets(schema)[owner]


def test_a_shared_feature_reads_its_owners_rows():
    tables = Tables(tiny.SCHEMA)
    history = tables.rows("query", {}, jnp.array([[-1] * 5 + [7, 8, -1, -1]], jnp.int32))["dim8"]
    ad = tables.rows("ad", {}, jnp.array([[7, -1, -1, -1], [8, -1, -1, -1]], jnp.int32))["dim8"]
    assert history[0, 1:3].tolist() == ad[:, 0].tolist() == [57, 58]


def test_an_empty_slot_gathers_zeros_from_one_past_the_end():
    _, tables = tiny.weights()
    rows = Tables(tiny.SCHEMA).rows("query", {}, jnp.full((2, 9), -1, jnp.int32))
    for name, table in tables.items():
        assert (np.asarray(rows[name]) == len(table)).all()
        assert (np.asarray(gather(tables, rows)[name]) == 0).all()


def test_tables_beyond_int32_are_refused():
    wide = [Feature(f"f{i}", "categorical", "query", dim=8, hash_size=2**30) for i in range(2)]
    schema = dataclasses.replace(MIXED, features=(*wide, *MIXED.tower_features("ad"), MIXED.feature("a")))
    with pytest.raises(SchemaError, match="table 'dim8' has 2147483648 rows"):
        _ = Tables(schema).shapes


def test_id_dropout_spares_the_vocabularies_of_a_table_that_hashed_ids_share():
    tables = Tables(MIXED)
    ids = jnp.ones((4, tables.schema.layout["query"].id_slots), jnp.int32)
    shown, hidden = tables.rows("query", {}, ids), tables.rows("query", {}, ids, 1.0, jax.random.key(0))
    vocabulary = 1  # the columns of the table of width 3 are a, c, d, e (three slots) and f; c has a vocabulary
    for column in range(7):
        past_end = np.asarray(hidden["dim3"][:, column]) == tables.shapes["dim3"][0]
        assert past_end.tolist() == [column != vocabulary] * 4
    np.testing.assert_array_equal(hidden["dim3"][:, vocabulary], shown["dim3"][:, vocabulary])
