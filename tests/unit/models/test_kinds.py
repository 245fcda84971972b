"""Every kind of model: against NumPy float64, and through training, evaluation, export, index and scorer."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from serving.index.ad_index import AdIndex, index_table
from serving.scorer import Scorer
from tests.support import tiny
from tests.support.dense_training import dense_training
from tests.support.forward import encoded, model_of, predict, random_arrays
from tests.support.kinds import DEEP, kind_of
from tests.support.reference_model import MIXED, Reference
from tests.support.steps import BASE, STEPS, batches, compiled, fresh, trained
from tt_jax.bundle.reader import Bundle
from tt_jax.bundle.writer import write_bundle
from tt_jax.config import ConfigError, ModelConfig
from tt_jax.config.registry import MODEL_KINDS
from tt_jax.features.encoder import Encoder
from tt_jax.models.embedding import gather
from tt_jax.models.mtmd import DomainInput
from tt_jax.models.two_tower import TwoTower
from tt_jax.schema import TOWERS, Feature, Schema
from tt_jax.training.step import make_step

KINDS = MODEL_KINDS.names
# The query tower knows its scenario, but for one value that the vocabulary lacks and one that is no scenario.
KNOWN = dataclasses.replace(
    tiny.SCHEMA,
    features=(
        Feature("country", "categorical", "query", dim=4, vocabulary=tiny.COUNTRIES),
        Feature("scenario", "categorical", "query", dim=4, vocabulary=("shopping", "video", "standard")),
        *tiny.SCHEMA.features[2:],
    ),
    scenarios=("standard", "search", "shopping"),
)
ONE_DOMAIN = dataclasses.replace(tiny.SCHEMA, scenarios=("standard",))


@pytest.mark.parametrize(
    ("kind", "schema"),
    [
        *(pytest.param(kind, tiny.SCHEMA, id=kind) for kind in KINDS[1:]),
        pytest.param("heavy", MIXED, id="heavy mixed"),
        pytest.param("mtmd", KNOWN, id="mtmd knows"),
        pytest.param("mtmd", ONE_DOMAIN, id="mtmd one domain"),
    ],
)
def test_predict_is_the_reference(kind, schema):
    model, params, tables = model_of(kind_of(kind), schema=schema)
    arrays = random_arrays(schema, 64)
    expected = Reference(schema, model.config, params, tables).logits(arrays)
    assert expected.std(axis=0).min() > 0.05
    logits = predict(model, params, tables, arrays)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_kinds_without_cross_layers_and_experts_ignore_their_numbers():
    other = dataclasses.replace(DEEP, full_rank_layers=3, low_rank_layers=0, rank=9)
    fewer = dataclasses.replace(DEEP, experts=1, gate_hidden=5)

    def shapes(config: ModelConfig, kind: str) -> dict[str, tuple[int, ...]]:
        return {name: p.shape for name, p in model_of(kind_of(kind, config))[0].shapes()[0].items()}

    for kind in KINDS:
        assert (shapes(other, kind) == shapes(DEEP, kind)) == (kind in ("mmoe_mlp", "mlp", "mtmd")), kind
        assert (shapes(fewer, kind) == shapes(DEEP, kind)) == (kind in ("dcn", "mlp")), kind


@pytest.mark.parametrize("kind", ["mtmd", "heavy"])
def test_training_steps_are_those_of_the_dense_reference(kind):
    run = dataclasses.replace(BASE, model=kind_of(kind, dataclasses.replace(BASE.model, mlp=(8,))))
    data = batches(3)
    state = trained(compiled(run, 16), fresh(run), data)
    params, tables, _ = dense_training(run, tiny.SCHEMA, fresh(run), data, STEPS)
    for found, expected in ((state.params, params), (state.tables, tables)):
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=3e-5, err_msg=name)


@pytest.mark.parametrize("kind", ["mtmd", "heavy", "mlp"])
def test_dropout_follows_its_key(kind):
    model, params, tables = model_of(kind_of(kind, dataclasses.replace(DEEP, dropout=0.5)))
    arrays = encoded(16)
    rows = model.rows({}, arrays)
    inputs = model.inputs(params, {t: gather(tables, rows[t]) for t in TOWERS}, rows, arrays)
    logits = jax.jit(model.logits)
    a, again, b = (np.asarray(logits(params, inputs, jax.random.key(seed))) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, again)
    assert (a != b).any(axis=1).all()
    assert (a != predict(model, params, tables, arrays)).any(axis=1).all()


# MTMD.


def shares_of(schema: Schema, ids: list[int]) -> np.ndarray:
    """Shares of the domains that the query tower reads from scenario ids, `[n, S]`."""
    inputs = DomainInput(schema, "query")
    model, _, tables = model_of(kind_of("mtmd"), schema=schema)
    arrays = random_arrays(schema, len(ids))
    matrix = np.array(arrays["query_ids"])
    matrix[:, schema.layout["query"].ids[1][1]] = ids
    rows = model.rows({}, {**arrays, "query_ids": jnp.asarray(matrix)})["query"]
    x0 = inputs(gather(tables, rows), rows, arrays["query_floats"])
    assert x0.shape == (inputs.width + len(schema.scenarios), len(ids))
    return np.asarray(x0[inputs.width :].T)


def test_the_scenario_feature_tells_the_domain():
    third = [1 / 3] * 3
    # missing, unknown, shopping, video (which is no scenario), standard
    np.testing.assert_allclose(shares_of(KNOWN, [0, 1, 2, 3, 4]), [third, third, [0, 0, 1], third, [1, 0, 0]])


def test_only_the_experts_of_the_domain_count_and_a_domain_does_not_train_its_neighbours():
    model, params, tables = model_of(kind_of("mtmd"), schema=KNOWN)
    arrays = random_arrays(KNOWN, 32)
    column = KNOWN.layout["query"].ids[1][1]
    arrays = {**arrays, "query_ids": arrays["query_ids"].at[:, column].set(4)}  # standard, domain 0

    def loss(params: dict[str, jax.Array]) -> jax.Array:
        return jnp.sum(jnp.square(model.predict(params, tables, arrays)))

    gradient = jax.jit(jax.grad(loss))(params)
    moved = {name for name, g in gradient.items() if name.startswith("query/body/task_") and np.abs(g).max() > 0}
    assert moved == {n for n in gradient if n.startswith(("query/body/task_specific/0", "query/body/task_shared/0"))}
    borrowed = np.abs(gradient["query/body/affinity"])
    assert borrowed[0, 1:].min() > 0
    assert borrowed[1:].max() == borrowed[0, 0] == 0
    changed = dict(params)
    changed["query/body/task_shared/1/out/bias"] += 1.0  # what is borrowed is felt
    assert np.abs(predict(model, changed, tables, arrays) - predict(model, params, tables, arrays)).max() > 1e-3


# Through the rest of the house.


@pytest.fixture(scope="module")
def mtmd_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = dataclasses.replace(tiny.CONFIG, model=kind_of("mtmd", tiny.CONFIG.model))
    params, tables = tiny.weights(2, tiny.SCHEMA, config)
    out = tmp_path_factory.mktemp("mtmd") / "bundle"
    golden = tiny.golden_rows(np.random.default_rng(1), 8)
    write_bundle(
        out, schema=tiny.SCHEMA, config=config, params=params, tables=tables, metrics={}, golden_rows=golden,
        platforms=("cpu",)
    )  # fmt: skip
    return out


def test_mtmd_is_exported_indexed_and_served(mtmd_bundle, tmp_path):
    bundle = Bundle.load(mtmd_bundle)
    assert bundle.config.model.kind == "mtmd"
    assert bundle.replay_golden() < 1e-5
    ads = tiny.ads_table(np.random.default_rng(2), 50, eligible=1.0)
    index_table(bundle, ads).save(tmp_path / "index")
    query = tiny.queries(np.random.default_rng(3), 1)[0]
    scorer = Scorer(bundle, AdIndex.load(tmp_path / "index"))
    ranked = scorer.rank(scorer.encode([query]), k=5)[0]
    reference = Reference(tiny.SCHEMA, bundle.config.model, bundle.params, bundle.tables)
    columns = {**{n: [v] * 50 for n, v in query.items()}, **{n: ads.column(n) for n in ads.column_names}}
    arrays = Encoder(tiny.SCHEMA).encode(columns, outcomes=False).arrays
    click = 1 / (1 + np.exp(-reference.logits(arrays)[:, 0]))
    value = click * np.asarray(ads.column("bid"))
    best = np.argsort(-value)[:5]
    assert [a.id for a in ranked] == [ads.column("ad_id")[int(i)].as_py() for i in best]


def test_a_heavy_ranker_is_refused_where_ads_are_embedded(tmp_path, mtmd_bundle):
    config = dataclasses.replace(tiny.CONFIG, model=kind_of("heavy", tiny.CONFIG.model))
    model, params, tables = model_of(config.model)
    with pytest.raises(ConfigError, match="a heavy ranker has no ad tower to export or index"):
        write_bundle(
            tmp_path / "out", schema=tiny.SCHEMA, config=config, params=params, tables=tables, metrics={},
            golden_rows=tiny.golden_rows(np.random.default_rng(1), 2), platforms=("cpu",),
        )  # fmt: skip
    assert not list(tmp_path.iterdir())
    arrays = encoded(4)
    with pytest.raises(ConfigError, match="no ad tower"):
        model.embed(params, tables, "ad", arrays["ad_ids"], arrays["ad_floats"])


@pytest.mark.parametrize("kind", ["mlp", "mmoe_mlp"])
def test_without_cross_layers_bf16_trains_in_one_chunk(kind):
    """XLA's CPU runtime lacks a product that it would make of the last one and a transpose, see `_over_chunks`."""
    wide = dataclasses.replace(kind_of(kind), mlp=(128, 64), output_dim=32, experts=2)
    run = dataclasses.replace(BASE, model=wide)
    step = jax.jit(make_step(TwoTower(tiny.SCHEMA, wide, "bf16"), run, 10), donate_argnums=0)
    state, _ = step(fresh(run), batches(1, rows=512)[0])
    assert all(np.isfinite(p).all() for p in jax.device_get(state.params).values())
