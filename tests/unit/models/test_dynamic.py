"""Dynamic rows against a map of Python dicts: admission, contention, eviction; and steps, checkpoints and bundles."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest

from input_pipeline.blocks.prepared_set import PreparedSet
from input_pipeline.prepare.sequential import prepare
from input_pipeline.readers import Chunk
from serving.parity.profile import Profile
from tests.support import tiny
from tests.support.run_results import assert_same_bits, last_state
from tests.support.steps import batches
from tt_jax.config import Config, StageConfig, TrainConfig
from tt_jax.features.encoder import Encoder
from tt_jax.models.dynamic import find_rows
from tt_jax.models.two_tower import TwoTower
from tt_jax.schema import PAD_ID, UNKNOWN_ID, WAYS, Feature
from tt_jax.training.admission import COUNTERS, admit, fresh_admission
from tt_jax.training.step import init_state, make_step


class Reference:
    """A dynamic table as Python dicts: of each bucket the key of each way and when it was used."""

    def __init__(self, feature: Feature) -> None:
        self.feature, self.buckets = feature, feature.dynamic_rows // WAYS
        self.keys = [[0] * WAYS for _ in range(self.buckets)]
        self.used = [[0] * WAYS for _ in range(self.buckets)]
        self.counters: Counter[int] = Counter()
        self.admitted = self.evicted = 0

    def row(self, key: int) -> int:
        if key < 2:
            return key
        bucket = key % self.buckets
        return 2 + bucket * WAYS + self.keys[bucket].index(key) if key in self.keys[bucket] else UNKNOWN_ID

    def step(self, step: int, batch: list[int]) -> set[int]:
        """Admits; the rows that have a new id."""
        f, size = self.feature, COUNTERS * self.feature.dynamic_rows
        if f.evict_after and step % f.evict_after == 0:
            self.counters = Counter({c: n // 2 for c, n in self.counters.items()})
        strangers: Counter[int] = Counter()
        for key in batch:
            row = self.row(key)
            if row >= 2:
                self.used[(row - 2) // WAYS][(row - 2) % WAYS] = step
            elif key >= 2:
                strangers[key] += 1
        for key, n in strangers.items():
            self.counters[key % size] += n
        asking = [key for key in strangers if self.counters[key % size] >= f.admit_after]
        rows = set()
        for bucket in {key % self.buckets for key in asking}:
            key = max(k for k in asking if k % self.buckets == bucket)
            keys, used = self.keys[bucket], self.used[bucket]
            way = keys.index(0) if 0 in keys else used.index(min(used))
            if keys[way] and not (f.evict_after and step - used[way] >= f.evict_after):
                continue
            self.admitted, self.evicted = self.admitted + 1, self.evicted + bool(keys[way])
            keys[way], used[way] = key, step
            self.counters[key % size] = 0
            rows.add(2 + bucket * WAYS + way)
        return rows


@pytest.mark.parametrize(
    ("rows", "admit_after", "evict_after"), [(16, 1, 0), (16, 2, 3), (64, 3, 10), (8, 1, 1), (256, 2, 5)]
)
def test_the_map_is_that_of_the_dicts_on_a_stream_that_drifts(rows, admit_after, evict_after):
    feature = Feature("x", "categorical", "ad", dynamic_rows=rows, admit_after=admit_after, evict_after=evict_after)
    reference, admission, rng = Reference(feature), fresh_admission(feature), np.random.default_rng(rows)
    keys = jnp.zeros((rows // WAYS, WAYS), jnp.int32)
    run = jax.jit(lambda *state: admit(feature, *state), donate_argnums=(0, 1))
    pool = rng.integers(2, 2**31, 500)
    for step in range(60):
        batch = pool[5 * step + np.minimum(rng.zipf(1.3, 80), 150)]  # ids come and go
        batch[rng.random(80) < 0.1] = rng.choice([PAD_ID, 0, 2**31 - 1])
        found = run(keys, admission, jnp.asarray(rng.permutation(batch), jnp.int32), jnp.int32(step))
        expected = reference.step(step, batch.tolist())
        keys, admission = found.keys, found.admission
        assert set(np.asarray(found.rows).tolist()) - {-1} == expected
        np.testing.assert_array_equal(keys, reference.keys)
        np.testing.assert_array_equal(admission.last_used, reference.used)
        counters = [reference.counters[c] for c in range(COUNTERS * rows)]
        np.testing.assert_array_equal(admission.counters, counters)
        assert (int(admission.admitted), int(admission.evicted)) == (reference.admitted, reference.evicted)
        asked = [PAD_ID, 0, 1, *pool.tolist()]
        np.testing.assert_array_equal(find_rows(keys, jnp.asarray(asked, jnp.int32)), list(map(reference.row, asked)))
    assert reference.admitted > 5
    assert (reference.evicted > 0) == (evict_after > 0 and rows < 256) or rows == 256


MODEL = TwoTower(tiny.DYNAMIC, tiny.CONFIG.model, "f32")


def test_a_new_id_starts_as_the_unknown_and_goes_its_own_way():
    config = dataclasses.replace(tiny.CONFIG, optimizer=dataclasses.replace(tiny.CONFIG.optimizer, warmup=0.0))
    step = jax.jit(make_step(MODEL, config, 50))
    state, seen = init_state(MODEL, config, 50), 0
    table, first = MODEL.tables.place(tiny.DYNAMIC.feature("ad_id"))
    for batch in batches(6, schema=tiny.DYNAMIC):
        before = state
        state, _ = step(before, batch)
        old, new = np.asarray(before.tables["keys/ad_id"]), np.asarray(state.tables["keys/ad_id"])
        fresh = first + 2 + np.flatnonzero((old != new).reshape(-1))
        seen += len(fresh)
        unknown = np.asarray(before.tables[table])[first + UNKNOWN_ID]
        moved = np.abs(np.asarray(state.tables[table])[fresh] - unknown).max(axis=1)
        assert (moved > 0).mean() > 0.9  # those that had a label
        # From the unknown row on, by one step of Adagrad without history, whose root mean square is the rate.
        steps = np.asarray(state.tables[table])[fresh] - unknown
        rates = np.sqrt((steps**2).mean(axis=1))[moved > 0]
        expected = np.asarray(state.accumulators[table])[fresh][moved > 0]
        rate = config.optimizer.embedding_learning_rate
        assert (rates < 1.01 * rate).all()
        assert (rates[expected > 1e-6] > 0.9 * rate * 0.5).all()
    assert seen == int(state.admissions["ad_id"].admitted) > 20
    assert int(state.admissions["user"].evicted) >= 0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path]:
    """A run on a small set of the dynamic schema, with a checkpoint in its middle."""
    folder, rng = tmp_path_factory.mktemp("dynamic"), np.random.default_rng(4)

    def chunks() -> Iterator[Chunk]:
        for split, rows in (("train", 960), ("eval", 200)):
            yield Chunk(split, split, 0, pa.table(tiny.columns(rng, rows)))

    prepare(tiny.DYNAMIC, chunks(), folder / "set", block_rows=64, ads=tiny.ads_table(rng, 40))
    from tt_jax.training.loop import train

    config = dataclasses.replace(
        tiny.CONFIG,
        data=dataclasses.replace(tiny.CONFIG.data, path=str(folder / "set")),
        train=TrainConfig(epochs=1, log_every=10, save_every=10, keep_last=5),
    )
    assert train(config, folder / "run").step == 30
    return config, folder / "run"


def test_a_run_that_goes_on_from_a_checkpoint_ends_with_the_same_bits(run, tmp_path):
    from tt_jax.training.loop import train

    config, workdir = run
    shutil.copytree(workdir, tmp_path / "run")
    for step in (20, 30):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / str(step))
    assert train(config, tmp_path / "run").step == 30
    a, b = last_state(config, workdir).state, last_state(config, tmp_path / "run").state
    assert_same_bits(a, b)
    assert int(a.admissions["user"].evicted) > 0
    assert int(a.admissions["ad_id"].admitted) == np.count_nonzero(a.tables["keys/ad_id"]) > 50


def test_a_day_of_new_ids_is_learned_exactly_however_the_run_is_killed(run, tmp_path, monkeypatch):
    from tt_jax.training import loop
    from tt_jax.training.continuous import go_on

    config, workdir = run
    rng = np.random.default_rng(6)
    columns = tiny.columns(rng, 640)
    columns["user"] = [f"new {v}" for v in rng.integers(0, 30, 640)]
    chunk = Chunk("train", "day", 0, pa.table(columns))
    prepare(tiny.DYNAMIC, [chunk], tmp_path / "day", block_rows=64)
    before, day = last_state(config, workdir).state, [str(tmp_path / "day")]
    stops = loop._Loop.stops

    def dying(self, step: int) -> bool:
        if step == 41:
            raise KeyboardInterrupt
        return stops(self, step)

    for name in ("whole", "killed"):
        shutil.copytree(workdir, tmp_path / name)
    monkeypatch.setattr(loop._Loop, "stops", dying)
    with pytest.raises(KeyboardInterrupt):
        go_on(config, tmp_path / "killed", day, StageConfig(rate=0.3))
    monkeypatch.undo()
    for name in ("whole", "killed"):
        (result,) = go_on(config, tmp_path / name, day, StageConfig(rate=0.3))
        assert result.step == 50
    ends = [last_state(config, tmp_path / name).state for name in ("whole", "killed")]
    assert_same_bits(*ends)
    slot = next(slot for name, slot, _ in tiny.DYNAMIC.layout["query"].ids if name == "user")
    new = PreparedSet.open(tmp_path / "day").blocks(("train",), (), ("query_ids",))[0]["query_ids"][:, slot]
    assert np.isin(np.asarray(ends[0].tables["keys/user"]), new).sum() > 10
    assert not np.isin(np.asarray(before.tables["keys/user"]), new).any()


def test_what_is_exported_scores_as_training_evaluates_and_strangers_as_the_unknown(run, tmp_path):
    from serving.index.ad_index import index_table
    from serving.portable import PortableBundle
    from serving.scorer import Scorer
    from tt_jax.bundle.reader import Bundle
    from tt_jax.bundle.writer import write_bundle
    from tt_jax.training.trained import load_trained

    config, workdir = run
    trained = load_trained(workdir)
    write_bundle(
        tmp_path / "bundle", schema=tiny.DYNAMIC, config=config, params=trained.params, tables=trained.tables,
        metrics={}, golden_rows=tiny.golden_rows(np.random.default_rng(1), 4), platforms=("cpu",),
    )  # fmt: skip
    bundle = Bundle.load(tmp_path / "bundle")
    assert bundle.fingerprint == trained.fingerprint
    np.testing.assert_array_equal(bundle.tables["keys/ad_id"], trained.tables["keys/ad_id"])
    PortableBundle.load(tmp_path / "bundle").replay_golden()

    table = tiny.ads_table(np.random.default_rng(2), 30)
    prepared = PreparedSet.open(config.data.path).blocks(("train",), (), ("keys", "ad_ids"))[0]
    is_known = np.asarray(find_rows(trained.tables["keys/ad_id"], jnp.asarray(prepared["ad_ids"][:, 0]))) > UNKNOWN_ID
    known = sorted(set(prepared["keys"][is_known, tiny.DYNAMIC.key_columns.index("ad_id")].tolist()))
    ids = [*known[:15], *range(10**6, 10**6 + 30 - len(known[:15]))]
    count = len(known[:15])
    table = table.set_column(table.column_names.index("ad_id"), "ad_id", pa.array(ids))
    scorer = Scorer(bundle, index_table(bundle, table), max_k=20, warm=False)
    rng = np.random.default_rng(5)
    queries = tiny.queries(rng, 1)
    found = scorer.score(queries, [ids])[0]
    columns = {name: [queries[0][name]] * 30 for name in queries[0]} | {
        n: table.column(n).to_pylist() for n in table.column_names
    }
    arrays = Encoder(tiny.DYNAMIC).encode(columns, outcomes=False).arrays
    arrays = {name: jnp.asarray(array) for name, array in arrays.items()}
    rows = np.asarray(trained.model.rows(trained.tables, arrays)["ad"]["dim8"])[:, 0]
    first = trained.model.tables.place(tiny.DYNAMIC.feature("ad_id"))[1]
    assert (rows[count:] == first + UNKNOWN_ID).all()
    assert (rows[:count] > first + UNKNOWN_ID).all()
    assert count > 3
    logits = jax.jit(trained.model.predict)(trained.params, trained.tables, arrays)
    expected = np.asarray(jax.nn.sigmoid(logits))
    got = np.array([[ad.probabilities[head] for head in tiny.DYNAMIC.heads] for ad in found])
    np.testing.assert_allclose(got, expected, atol=2e-6)


def test_the_log_tells_of_the_rows(run):
    from tt_jax.runs.metrics_log import read_scalars

    last: dict[str, Any] = [line for line in read_scalars(run[1]) if "rows/ad_id/used" in line][-1]
    state = last_state(*run).state
    assert last["rows/ad_id/used"] == np.count_nonzero(state.tables["keys/ad_id"])
    assert last["rows/user/admitted"] == int(state.admissions["user"].admitted) >= last["rows/user/used"]
    assert last["rows/user/evicted"] == last["rows/user/admitted"] - last["rows/user/used"]


def test_a_profile_counts_ids_by_their_keys():
    queries = [{"user": user} for user in ("a", "b", "a", None)]
    training, serving = Profile(tiny.DYNAMIC), Encoder(tiny.DYNAMIC).encode_queries(queries).arrays
    first = Encoder(tiny.DYNAMIC).encode_queries(queries[:1]).arrays
    training.add(first["query_ids"], first["query_floats"])
    served = Profile(tiny.DYNAMIC, training)
    served.add(serving["query_ids"], serving["query_floats"])
    assert (served.unseen["user"], served.ids["user"]) == (1, 3)
