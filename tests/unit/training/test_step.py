"""The training step, against a dense one among others."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import tiny
from tests.support.dense_training import dense_training, rate_at
from tests.support.steps import BASE, DECAY, ROWS, STEPS, batches, compiled, fresh, trained
from tt_jax.config import Config
from tt_jax.metrics import streaming
from tt_jax.models.two_tower import TwoTower
from tt_jax.training.optimizers import schedule
from tt_jax.training.step import MODEL_ARRAYS, TrainState, resolve_chunk_rows, step_arrays

DROPOUT = dataclasses.replace(BASE, model=dataclasses.replace(BASE.model, dropout=0.4))
ID_DROPOUT = dataclasses.replace(BASE, model=dataclasses.replace(BASE.model, id_dropout=0.4))
CLICK, CONVERSION, TEACHER = tiny.SCHEMA.tasks
NO_CONVERSION = dataclasses.replace(tiny.SCHEMA, tasks=(CLICK, dataclasses.replace(CONVERSION, weight=0.0), TEACHER))
# The teacher's score is of the click: two heads for three labels.
TWO_HEADS = dataclasses.replace(
    tiny.SCHEMA, tasks=(CLICK, CONVERSION, dataclasses.replace(TEACHER, head="click", weight=0.7))
)


def assert_equal(a: Any, b: Any) -> None:
    """Bit for bit."""
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


@pytest.mark.parametrize(
    ("run", "schema"), [(BASE, tiny.SCHEMA), (DECAY, NO_CONVERSION), (BASE, TWO_HEADS)], ids=["plain", "decay", "heads"]
)
def test_steps_are_those_of_the_dense_reference(run, schema):
    data, start = batches(STEPS), fresh(run, schema)
    state = trained(compiled(run, schema=schema), fresh(run, schema), data)
    params, tables, accumulators = dense_training(run, schema, start, data, STEPS)
    for name, expected in params.items():
        np.testing.assert_allclose(state.params[name], expected, rtol=1e-4, atol=2e-5, err_msg=name)
    for name, expected in tables.items():
        np.testing.assert_allclose(state.tables[name], expected, rtol=1e-4, atol=2e-5, err_msg=name)
        np.testing.assert_allclose(state.accumulators[name], accumulators[name], rtol=1e-3, atol=1e-9, err_msg=name)
        assert np.abs(state.tables[name] - start.tables[name]).max() > 0.01
    assert int(state.step) == STEPS


def test_chunks_add_up_to_the_whole_batch():
    data = batches(STEPS)
    whole, parts = trained(compiled(), fresh(), data), trained(compiled(BASE, 16), fresh(), data)
    for a, b in zip(*(jax.tree.leaves((s.params, s.tables, s.metrics)) for s in (whole, parts)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


def test_schedule_is_a_warm_up_and_a_cosine():
    found = [float(schedule(BASE.optimizer, STEPS)(step)) for step in range(STEPS + 1)]
    np.testing.assert_allclose(found, [rate_at(step, STEPS, BASE) for step in range(STEPS + 1)], atol=1e-6)
    no_warmup = dataclasses.replace(BASE.optimizer, warmup=0.0)
    assert [float(schedule(no_warmup, n)(0)) for n in (0, 1, 10)] == [1.0, 1.0, 1.0]
    only_warmup = dataclasses.replace(BASE.optimizer, warmup=1.0)
    assert [float(schedule(only_warmup, 5)(step)) for step in range(5)] == [0.25, 0.4375, 0.625, 0.8125, 1.0]


# Labels, masks and weights.


@pytest.mark.parametrize("chunk_rows", [0, 16])
def test_rows_without_any_label_leave_no_trace(chunk_rows):
    data, others = batches(2), batches(2, seed=7)
    silent = np.random.default_rng(0).random(ROWS) < 0.5
    changed = []
    for batch, other in zip(data, others, strict=True):
        batch["labels"][silent] = np.nan
        mixed = {name: np.where(silent[:, None], other[name], batch[name]) for name in MODEL_ARRAYS}
        changed.append({**mixed, "labels": batch["labels"]})
    assert not np.array_equal(data[0]["query_floats"], changed[0]["query_floats"])
    step = compiled(BASE, chunk_rows)
    assert_equal(trained(step, fresh(), data), trained(step, fresh(), changed))


def test_a_masked_label_adds_nothing_to_its_task_whatever_its_weight():
    (batch,) = batches(1)
    masked = np.isnan(batch["labels"])
    assert masked[:, 1:].any(axis=0).all()
    weights = np.where(masked, np.float32(1000), batch["weights"])
    assert_equal(trained(compiled(), fresh(), [batch]), trained(compiled(), fresh(), [{**batch, "weights": weights}]))


def test_a_task_of_weight_0_does_not_train_but_is_measured():
    (batch,) = batches(1)
    flipped = batch["labels"].copy()
    flipped[:, 1] = 1 - flipped[:, 1]
    step = compiled(DECAY, schema=NO_CONVERSION)
    a, b = (trained(step, fresh(), [{**batch, "labels": y}]) for y in (batch["labels"], flipped))
    assert_equal((a.params, a.tables), (b.params, b.tables))
    assert a.metrics.loss_T[1] != b.metrics.loss_T[1]


def test_a_batch_without_labels_is_finite_and_moves_no_row():
    (batch,) = batches(1)
    start = fresh()
    state = trained(compiled(), fresh(), [{**batch, "labels": np.full_like(batch["labels"], np.nan)}])
    assert_equal((state.tables, state.accumulators, state.metrics), (start.tables, start.accumulators, start.metrics))
    assert all(np.isfinite(value).all() for value in state.params.values())


def test_a_soft_label_trains_like_its_two_hard_halves():
    (batch,) = batches(1)
    half, y = ROWS // 2, np.random.default_rng(0).beta(1, 3, ROWS // 2).astype(np.float32)
    rows = {name: np.concatenate([array[:half], array[:half]]) for name, array in batch.items()}
    weights = np.random.default_rng(1).exponential(size=half).astype(np.float32)

    def step(labels: list[Any], weights: list[Any]) -> TrainState:
        """One step on the same rows twice, labelled for the teacher alone."""
        one_task = np.full((ROWS, 3), np.nan, np.float32)
        one_task[:, 2] = np.concatenate(labels)
        by_row = np.repeat(np.concatenate(weights)[:, None], 3, axis=1)
        data = {**rows, "labels": one_task, "weights": by_row}
        return trained(compiled(), fresh().replace(step=jnp.int32(3)), [data])

    soft = step([y, np.full(half, np.nan)], [weights, weights])
    hard = step([np.ones(half), np.zeros(half)], [weights * y, weights * (1 - y)])
    np.testing.assert_allclose(soft.metrics.loss_T, hard.metrics.loss_T, rtol=1e-5)
    for name in soft.tables:
        np.testing.assert_allclose(soft.tables[name], hard.tables[name], atol=2e-5)
        np.testing.assert_allclose(soft.accumulators[name], hard.accumulators[name], rtol=1e-3, atol=1e-10)
        assert np.abs(soft.tables[name] - fresh().tables[name]).max() > 0.01


# Metrics, dropout, determinism, donation.


def test_metrics_are_the_weighted_sums_of_all_batches():
    data = batches(2)
    model, state = TwoTower(tiny.SCHEMA, BASE.model, "f32"), fresh()
    expected = np.zeros((4, 3))
    for batch in data:
        z = np.asarray(jax.jit(model.predict)(state.params, state.tables, batch), np.float64)
        y, w = batch["labels"].astype(np.float64), batch["weights"].astype(np.float64)
        losses = y * np.log1p(np.exp(-z)) + (1 - y) * np.log1p(np.exp(z))
        w, y, losses = (np.where(np.isnan(y), 0, v) for v in (w, y, losses))
        expected += [(w * losses).sum(0), w.sum(0), (w * y).sum(0), (w / (1 + np.exp(-z))).sum(0)]
        state, done = compiled()(state, batch)
    assert int(done) == 2
    np.testing.assert_allclose(np.stack(state.metrics), expected, rtol=1e-5)
    found = streaming.compute(state.metrics, tiny.SCHEMA.task_names)
    assert found["click"]["loss"] == pytest.approx(expected[0, 0] / expected[1, 0], rel=1e-5)
    assert found["teacher"]["calibration"] == pytest.approx(expected[3, 2] / expected[2, 2], rel=1e-5)


def test_weights_of_tasks_come_from_the_configuration():
    (batch,) = batches(1)
    given = dataclasses.replace(BASE, train=dataclasses.replace(BASE.train, task_weights=("teacher=2", "click=0")))
    weights = {"click": 0.0, "teacher": 2.0}
    tasks = tuple(dataclasses.replace(t, weight=weights.get(t.name, t.weight)) for t in tiny.SCHEMA.tasks)
    of_schema = dataclasses.replace(tiny.SCHEMA, tasks=tasks)
    assert_equal(compiled(given)(fresh(), batch), compiled(schema=of_schema)(fresh(), batch))


def test_weights_of_scenarios_multiply_those_of_the_rows():
    (batch,) = batches(1)
    scenario = np.arange(ROWS, dtype=np.int32)[:, None] % 2  # 0 standard, 1 shopping
    weighted = dataclasses.replace(BASE, data=dataclasses.replace(BASE.data, scenario_weights=("shopping=0.25",)))
    assert step_arrays(weighted) == (*MODEL_ARRAYS, "scenario")
    assert step_arrays(BASE) == MODEL_ARRAYS
    by_hand = {**batch, "weights": np.where(scenario == 1, batch["weights"] / np.float32(4), batch["weights"])}
    expected = compiled()(fresh(), by_hand)
    assert_equal(compiled(weighted)(fresh(), {**batch, "scenario": scenario}), expected)


def test_a_task_without_any_label_changes_nothing():
    (batch,) = batches(1)
    labels = batch["labels"].copy()
    labels[:, 2] = np.nan
    state, _ = compiled(schema=TWO_HEADS)(fresh(schema=TWO_HEADS), {**batch, "labels": labels})
    other = dataclasses.replace(
        TWO_HEADS, tasks=(*TWO_HEADS.tasks[:2], dataclasses.replace(TWO_HEADS.tasks[2], weight=0.0))
    )
    expected, _ = compiled(schema=other)(fresh(schema=other), batch)
    assert_equal((state.params, state.tables), (expected.params, expected.tables))
    assert streaming.compute(state.metrics, TWO_HEADS.task_names)["teacher"] == {"loss": None, "calibration": None}


@pytest.mark.parametrize("run", [DROPOUT, ID_DROPOUT], ids=["dropout", "id_dropout"])
def test_dropout_is_drawn_anew_in_every_step_and_not_at_all_without(run):
    (batch,) = batches(1)

    def losses(run: Config, step: int) -> np.ndarray:
        state, _ = compiled(run, 16)(fresh(run).replace(step=jnp.int32(step)), batch)
        return np.asarray(state.metrics.loss_T)

    np.testing.assert_array_equal(losses(run, 0), losses(run, 0))
    assert (losses(run, 0) != losses(run, 1)).all()
    np.testing.assert_array_equal(losses(BASE, 0), losses(BASE, 1))


def test_chunks_draw_dropout_of_their_own():
    (batch,) = batches(1)
    first = {name: np.tile(array[:16], (4, 1)) for name, array in batch.items()}

    def losses(chunk: int) -> np.ndarray:
        """Of the same 16 rows, labelled in one chunk only."""
        labels = np.where(np.arange(ROWS)[:, None] // 16 == chunk, first["labels"], np.float32(np.nan))
        return np.asarray(compiled(DROPOUT, 16)(fresh(DROPOUT), {**first, "labels": labels})[0].metrics.loss_T)

    np.testing.assert_array_equal(losses(0), losses(0))
    assert (np.abs(losses(0) - losses(1)) > 1e-3).all()


@pytest.mark.parametrize("run", [BASE, DROPOUT, ID_DROPOUT], ids=["plain", "dropout", "id_dropout"])
def test_the_same_run_gives_the_same_bits(run):
    data = batches(3)
    assert_equal(trained(compiled(run, 16), fresh(run), data), trained(compiled(run, 16), fresh(run), data))


def test_every_buffer_of_a_donated_state_is_reused():
    state = fresh()
    new, done = compiled()(state, batches(1)[0])
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((new, done)))


def test_the_loss_falls_on_data_that_can_be_learnt():
    (batch,) = batches(1)
    taste = np.random.default_rng(0).normal(size=(50, 80))
    labels = np.full_like(batch["labels"], np.nan)
    labels[:, 0] = taste[batch["query_ids"][:, 0], batch["ad_ids"][:, 0]] > 0
    state, losses = fresh(), []
    for _ in range(80):
        state = state.replace(metrics=streaming.zeros(3), step=jnp.int32(2))  # the peak of the learning rate
        state = trained(compiled(), state, [{**batch, "labels": labels}])
        losses.append(streaming.compute(state.metrics, tiny.SCHEMA.task_names)["click"]["loss"])
    assert losses[0] > 0.6
    assert losses[-1] < 0.1


def test_chunk_rows_are_resolved_by_platform():
    auto = dataclasses.replace(BASE, chunk_rows=-1, data=dataclasses.replace(BASE.data, batch_size=2048))
    assert resolve_chunk_rows(auto, "cpu", 1) == 512
    assert [resolve_chunk_rows(auto, p, n) for p, n in (("gpu", 1), ("cpu", 2))] == [0, 0]
    odd = dataclasses.replace(auto, data=dataclasses.replace(BASE.data, batch_size=1000))
    assert resolve_chunk_rows(odd, "cpu", 1) == 0
    assert resolve_chunk_rows(dataclasses.replace(auto, chunk_rows=64), "gpu", 4) == 64
