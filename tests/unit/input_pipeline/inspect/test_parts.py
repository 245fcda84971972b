"""The parts of `tt-jax inspect`: sketches against exact counts, values, figures against SciPy and simulation."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import scipy.stats
import sklearn.metrics

from input_pipeline.inspect import figures
from input_pipeline.inspect.label_counts import Roles
from input_pipeline.inspect.sketches import Distinct, Frequent, RowSample
from input_pipeline.inspect.survey import Survey
from input_pipeline.inspect.values import row_keys, shown, text_keys, values_of
from input_pipeline.readers import Chunk
from tt_jax.features.hashing import hashed_rows, table_seed
from tt_jax.metrics.ranking import column_auc


def ones(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return keys.astype(np.uint64), np.ones(keys.size, np.int64)


def counted(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.unique_counts(keys.astype(np.uint64))


# ---- sketches --------------------------------------------------------------------------------------------------------


def test_distinct_is_exact_to_its_bound_and_near_beyond_it() -> None:
    rng = np.random.default_rng(0)
    small = Distinct(1000)
    for _ in range(3):
        small.add(*ones(rng.permutation(1000)))
    small.add(np.array([7], np.uint64), np.array([5]))
    assert (len(small), small.error, small.once) == (1000, 0.0, 0.0)
    assert small.repeated == pytest.approx(1 - 1000 / 3005)
    small.add(*ones(np.array([1000])))
    assert small.error > 0
    keys = rng.integers(0, 300_000, 500_000)
    many = Distinct(4096)
    for part in np.array_split(keys, 50):
        many.add(*ones(part))
    counts = np.array(list(Counter(keys.tolist()).values()))
    assert len(many) == pytest.approx(counts.size, rel=4 * many.error)
    assert many.once == pytest.approx((counts == 1).mean(), abs=4 * 0.5 / 64)
    assert many.repeated == pytest.approx(1 - counts.size / counts.sum(), abs=0.03)


def test_a_merged_sketch_is_the_sketch_of_all() -> None:
    rng = np.random.default_rng(1)
    keys = rng.integers(0, 20_000, 40_000)
    for bound, parts in ((500, (100, 30_000)), (500, (39_990,)), (500, (20_000,)), (50_000, (9_000,)), (500, (0,))):
        whole, merged = Distinct(bound), Distinct(bound)
        whole.add(*ones(keys))
        for part in np.split(keys, parts):
            sketch = Distinct(bound)
            sketch.add(*ones(part))
            merged.merge(sketch)
        figures_of = [(len(d), d.error, d.once, d.repeated) for d in (whole, merged)]
        assert figures_of[0] == figures_of[1]
    one, two = Distinct(100), Distinct(100)  # no new value: the bound is reached by one that is beyond it
    one.add(*ones(np.arange(1000)))
    two.add(*ones(np.arange(50)))
    two.merge(one)
    assert len(two) == len(one)


def test_frequent_keeps_its_error_bound_alone_and_merged() -> None:
    rng = np.random.default_rng(2)
    keys = rng.zipf(1.3, 60_000).clip(max=10**6)
    exact = Counter(keys.tolist())
    parts = [Frequent(100) for _ in range(3)]
    for part, of_part in zip(parts, np.array_split(keys, 3), strict=True):
        for some in np.array_split(of_part, 10):
            part.add(*counted(some))
    parts[0].merge(parts[1])
    parts[0].merge(parts[2])
    assert 0 < parts[0].error <= keys.size / 101
    found = dict(parts[0].top(100))
    for key, count in exact.items():
        assert 0 <= count - found.get(key, 0) <= parts[0].error
    assert [key for key, _ in parts[0].top(5)] == [key for key, _ in exact.most_common(5)]
    few = Frequent(10)
    few.add(*counted(np.repeat(np.arange(10), np.arange(1, 11))))
    assert (few.error, few.top(2)) == (0, [(9, 10), (8, 9)])


def test_a_row_sample_is_uniform_whole_rows_and_merges() -> None:
    seen = np.zeros(200)
    for seed in range(300):
        parts = [RowSample(20, 2 * seed), RowSample(20, 2 * seed + 1)]
        for i, part in enumerate(parts):
            for first in range(100 * i, 100 * i + 100, 25):
                keys = np.arange(first, first + 25, dtype=np.uint64)
                columns = {"a": (keys, np.ones(25, bool)), "b": (keys + np.uint64(7), np.ones(25, bool))}
                part.add(25, columns if first else {"a": columns["a"]})
        parts[0].merge(parts[1])
        (a, valid), (b, known) = parts[0].columns["a"], parts[0].columns["b"]
        assert len(parts[0]) == len(set(a.tolist())) == 20
        assert valid.all()
        np.testing.assert_array_equal(known, a >= 25)
        np.testing.assert_array_equal(b[known], a[known] + 7)
        seen[a.astype(int)] += 1
    assert scipy.stats.chisquare(seen).pvalue > 1e-3


# ---- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "kind", "texts"),
    [
        (pa.array([3, None, -4]), "int", ["3", "-4"]),
        (pa.array([2**64 - 1, None], pa.uint64()), "text", ["18446744073709551615"]),
        (pa.array([0.5, float("nan"), -0.0, None]), "float", ["0.5", "0"]),
        (pa.array([True, None, False]), "bool", ["true", "false"]),
        (pa.array(["a", None, "b"]).dictionary_encode(), "text", ["a", "b"]),
        (pa.array([b"\xff", None]), "text", ["ff"]),
        (pa.array([3, None], pa.int32()).dictionary_encode(), "int", ["3"]),
        (pa.array([20, None], pa.date32()), "time", ["1970-01-21T00:00:00.000000"]),
        (pa.array([1500, None], pa.timestamp("ms", "UTC")), "time", ["1970-01-01T00:00:01.500000"]),
        (pa.array([["a", None, "b"], [], None]), "text", ["a", "b"]),
        (pa.array([[1.5], None], pa.list_(pa.float32(), 1)), "float", ["1.5"]),
        (pa.nulls(2), "none", []),
        (pa.array([1, None], pa.duration("s")), "other", None),
    ],
)
def test_values_keep_what_they_are(column: Any, kind: str, texts: list[str] | None) -> None:
    values = values_of(pa.chunked_array([column.slice(0, 1), column.slice(1)]))
    assert values.kind == kind
    if texts is not None:
        assert [shown(values.kind, key, values.texts) for key in values.elements.tolist()] == texts
    nan = [i for i, v in enumerate(column.to_pylist()) if v is None or v != v]
    assert np.flatnonzero(~values.valid).tolist() == nan


TEXT_TYPES = (pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view())


def test_texts_have_one_key_if_they_are_equal_and_other_ones_if_not() -> None:
    rng = np.random.default_rng(3)
    texts = ["", "\0", "\0\0", "a", "a\0", "a" * 7, "a" * 8, "a" * 8 + "\0", "a" * 9, "a" * 256, "a" * 256 + "\0"]
    texts += ["a" * 256 + "b", "\u00e9" * 200, "b" + "a" * 300]
    texts += ["".join(rng.choice(["a", "b"], n)) for n in rng.integers(0, 300, 400)]
    expected = dict(zip(texts, text_keys(pa.array(texts)).tolist(), strict=True))
    assert len(set(expected.values())) == len(set(texts))
    rows = [texts[i] for i in rng.permutation(len(texts))]
    rows[5] = rows[300] = None
    for t in TEXT_TYPES:
        some = pa.array([v if v is None or "string" in str(t) else v.encode() for v in rows], t).slice(3, 380)
        found = dict(zip(rows[3:383], text_keys(some).tolist(), strict=True))
        assert {v: k for v, k in found.items() if v is not None} == {v: expected[v] for v in found if v is not None}
    assert text_keys(pa.array([], pa.string())).size == text_keys(pa.array([b"ab"], pa.binary(2))).size - 1 == 0
    assert text_keys(pa.array([None, ""], pa.string()))[1] == expected[""]


def test_hashes_of_texts_are_spread_over_their_range() -> None:
    keys = text_keys(pa.array([f"user-{i:08d}" for i in range(100_000)]))
    assert scipy.stats.kstest(keys / 2.0**64, "uniform").pvalue > 1e-3
    assert scipy.stats.chisquare(np.bincount((keys % np.uint64(1000)).astype(np.int64), minlength=1000)).pvalue > 1e-3
    ones_of_bits = [int((keys >> np.uint64(b) & np.uint64(1)).sum()) for b in range(64)]
    assert min(scipy.stats.binomtest(n, keys.size, 0.5).pvalue for n in ones_of_bits) > 1e-4


def test_rows_have_one_hash_if_they_are_equal_and_other_ones_if_not() -> None:
    rows = [(1, "x", [1, 2]), (1, "x", [2, 1]), (2, "x", [1, 2]), (1, None, [1, 2]), (1, "x", []), (1, "x", None),
            (1, "x", [1, 2])]  # fmt: skip
    columns = {name: pa.chunked_array([[row[i] for row in rows]]) for i, name in enumerate("abc")}
    hashes = row_keys([(name, values_of(column)) for name, column in columns.items()], len(rows))
    backwards = row_keys([(name, values_of(columns[name])) for name in "cba"], len(rows))
    np.testing.assert_array_equal(hashes, backwards)
    assert hashes[0] == hashes[-1]
    assert len(set(hashes.tolist())) == len(rows) - 1
    swapped = row_keys([(name, values_of(pa.chunked_array([[v]]))) for name, v in (("a", 2), ("b", 1))], 1)
    plain = row_keys([(name, values_of(pa.chunked_array([[v]]))) for name, v in (("a", 1), ("b", 2))], 1)
    assert swapped[0] != plain[0]


def test_a_time_of_any_unit_is_its_day() -> None:
    day = np.datetime64("2024-02-29", "D")
    us = int((day + np.timedelta64(1, "D")).astype("M8[us]").astype(np.int64)) - 1_000_000
    for value in (us, us // 10**3, us // 10**6, us * 10**3, us / 1e6, 20_240_229, day.item()):
        found = Survey(Roles({}, {}, time="when"))
        found.add(Chunk("all", "f", 0, pa.table({"when": [value, None]})))
        assert found.counted().labels.keys() == {("all", int(day.astype(np.int64)), ""), ("all", None, "")}, value


# ---- figures ---------------------------------------------------------------------------------------------------------


def test_ks_and_psi_are_those_of_scipy_and_numpy() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=900).round(1), rng.normal(0.4, 1.3, 700).round(1)
    assert figures.ks(a, b) == pytest.approx(scipy.stats.ks_2samp(a, b).statistic, abs=1e-12)
    edges = figures.number_bins(a)
    counts = [np.histogram(x, [-np.inf, *np.nextafter(edges, np.inf), np.inf])[0] for x in (a, b)]
    ours = [figures.number_histogram(edges, x, missing) for x, missing in ((a, 9.0), (b, 40.0))]
    np.testing.assert_array_equal(ours, [[*counts[0], 9], [*counts[1], 40]])
    p, q = ((c + 0.5) / (c + 0.5).sum() for c in ours)
    assert figures.psi(*ours) == pytest.approx(scipy.stats.entropy(p, q) + scipy.stats.entropy(q, p))
    assert figures.psi(ours[0], ours[0] * 1000) == pytest.approx(0, abs=1e-3)


def test_collisions_are_those_of_the_hash() -> None:
    rng = np.random.default_rng(4)
    for ids, rows in ((2_000, 4_096), (20_000, 4_096), (300, 100_000)):
        shares = []
        for name in range(10):
            keys = rng.integers(0, 2**62, ids).astype(np.uint64)
            taken = np.bincount(hashed_rows(keys, table_seed(str(name)), np.uint64(rows)))
            shares.append(1 - (taken == 1).sum() / ids)
        assert figures.collisions(ids, rows - 2) == pytest.approx(np.mean(shares), abs=0.01)
    assert figures.collisions(1, 50) == figures.collisions(0, 50) == 0
    needed = figures.rows_for(5_000, 0.05)
    assert figures.collisions(5_000, needed) <= 0.05 < figures.collisions(5_000, needed - 2)


def test_a_column_alone_is_scored_on_rows_that_it_has_not_seen() -> None:
    rng = np.random.default_rng(5)
    labels = rng.random(8_000) < 0.3
    unique = np.arange(8_000)
    assert column_auc(unique, labels) == 0.5
    assert column_auc(labels.astype(int), labels) == 1.0
    noise = column_auc(rng.integers(-1, 50, 8_000), labels)
    assert noise == pytest.approx(0.5, abs=0.03)
    number = rng.normal(labels * 1.0, 1.0)
    codes = figures.leak_codes(number.view(np.uint64), np.ones(8_000, bool), number)
    assert column_auc(codes, labels) == pytest.approx(sklearn.metrics.roc_auc_score(labels, number), abs=0.02)
    assert column_auc(unique, np.zeros(8_000, bool)) is None
