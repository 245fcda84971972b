"""One small world for every test: a schema with all five kinds of features, a model of random weights, random rows."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pyarrow as pa

from tt_jax.config import Config, DataConfig, ModelConfig
from tt_jax.models.two_tower import Params, TwoTower
from tt_jax.schema import Feature, Schema, Task

COUNTRIES = ("de", "fr", "jp", "us")
TOPICS = ("art", "cars", "food", "pets", "travel")
SCENARIOS = ("standard", "shopping")
TRAIN_ROWS, EVAL_ROWS = 3000, 500  # of the fixture `prepared_path`

SCHEMA = Schema(
    name="tiny",
    features=(
        Feature("user", "categorical", "query", dim=8, hash_size=50),
        Feature("country", "categorical", "query", dim=4, vocabulary=COUNTRIES, default="us"),
        Feature("interests", "bag", "query", dim=4, vocabulary=TOPICS, max_length=3),
        Feature("history", "sequence", "query", dtype="int", dim=8, max_length=4, shares="ad_id"),
        Feature("age", "numeric", "query", mean=40.0, std=15.0, indicator=True),
        Feature("query_embedding", "dense", "query", dim=3),
        Feature("ad_id", "categorical", "ad", dtype="int", dim=8, hash_size=80),
        Feature("advertiser", "categorical", "ad", dim=8, hash_size=20),
        Feature("topics", "bag", "ad", dim=4, max_length=2, shares="interests"),
        Feature("price", "numeric", "ad", transform="log1p", mean=2.0, std=1.0, default=5.0),
        Feature("ad_embedding", "dense", "ad", dim=3),
    ),
    tasks=(
        Task("click", "clicked"),
        Task("conversion", "converted", mask="clicked", weight=0.5, weight_column="importance"),
        Task("teacher", "teacher_score", kind="soft"),
    ),
    scenario="scenario",
    scenarios=SCENARIOS,
    request_id="request_id",
    user_id="user_id",
    ad_id="ad_id",
    time="time",
    slices=("hour",),
)

# Its queries tell the scenario, and its teacher labels the output of `click`.
TOLD = dataclasses.replace(
    SCHEMA,
    name="told",
    features=(*SCHEMA.features, Feature("scenario", "categorical", "query", dim=4, vocabulary=SCENARIOS)),
    tasks=(*SCHEMA.tasks[:2], Task("teacher", "teacher_score", kind="soft", head="click")),
    slices=("hour", "country"),
)

# The other ways to a row: admitted while training (users, and ads in lists too), and a vocabulary with rows to share.
_WAYS_TO_A_ROW = {
    "user": {"hash_size": 0, "dynamic_rows": 32, "admit_after": 3, "evict_after": 4},
    "ad_id": {"hash_size": 0, "dynamic_rows": 256, "admit_after": 2},
    "advertiser": {"hash_size": 7, "vocabulary": ("a7", "a1", "a20")},
}
DYNAMIC = dataclasses.replace(
    SCHEMA,
    name="dynamic",
    features=tuple(dataclasses.replace(f, **_WAYS_TO_A_ROW.get(f.name, {})) for f in SCHEMA.features),
)

CONFIG = Config(
    model=ModelConfig(
        experts=2,
        full_rank_layers=1,
        low_rank_layers=1,
        rank=4,
        mlp=(16,),
        gate_hidden=8,
        output_dim=8,
        embedding_init=0.5,  # not tiny: the rows of a test are to get clearly different scores
    ),
    data=DataConfig(batch_size=32, eval_batch_size=64, window=2),
    precision="f32",
    utility="bid * click",
)


def model(schema: Schema = SCHEMA, config: Config = CONFIG) -> TwoTower:
    """The tiny model in float32."""
    return TwoTower(schema, config.model, "f32")


def weights(seed: int = 0, schema: Schema = SCHEMA, config: Config = CONFIG) -> tuple[Params, Params]:
    """Random `(params, tables)`. Biases and recency weights too, which a fresh model leaves at zero."""
    params, tables = model(schema, config).init(seed)
    rng = np.random.default_rng(seed)
    for name, value in params.items():
        if value.ndim == 1:
            params[name] = jax.numpy.asarray(rng.normal(0, 0.5, value.shape).astype(np.float32))
    return params, tables


def _maybe(rng: np.random.Generator, n: int, values: Any, missing: float = 0.1) -> list[Any]:
    return [None if rng.random() < missing else values() for _ in range(n)]


def _some(rng: np.random.Generator, choices: Any, most: int) -> list[Any]:
    return [choices[int(i)] for i in rng.integers(0, len(choices), int(rng.integers(0, most + 1)))]


def _vector(rng: np.random.Generator) -> list[float]:
    return [float(v) for v in rng.normal(size=3)]


def query_columns(rng: np.random.Generator, n: int) -> dict[str, list[Any]]:
    """Raw query features of n rows, some values missing, lists of every length including too long."""
    return {
        "user": _maybe(rng, n, lambda: f"u{rng.integers(200)}"),
        "country": _maybe(rng, n, lambda: (*COUNTRIES, "zz")[int(rng.integers(5))]),
        "interests": _maybe(rng, n, lambda: _some(rng, (*TOPICS, "other"), 5)),
        "history": _maybe(rng, n, lambda: _some(rng, range(1000), 7)),
        "age": _maybe(rng, n, lambda: float(rng.integers(18, 80))),
        "query_embedding": _maybe(rng, n, lambda: _vector(rng)),
    }


def ad_columns(rng: np.random.Generator, n: int, ids: list[int] | None = None) -> dict[str, list[Any]]:
    """Raw ad features of n rows; the ids are drawn with repetition unless given."""
    return {
        "ad_id": [int(i) for i in rng.integers(0, 1000, n)] if ids is None else ids,
        "advertiser": _maybe(rng, n, lambda: f"a{rng.integers(30)}"),
        "topics": _maybe(rng, n, lambda: _some(rng, TOPICS, 3)),
        "price": _maybe(rng, n, lambda: float(rng.exponential(10))),
        "ad_embedding": _maybe(rng, n, lambda: _vector(rng)),
    }


def columns(rng: np.random.Generator, n: int) -> dict[str, list[Any]]:
    """Raw log rows: features, labels, mask, weights, scenario and keys. Every task has rows without a label."""
    clicked = [int(v) for v in rng.random(n) < 0.4]
    return {
        **query_columns(rng, n),
        **ad_columns(rng, n),
        "clicked": clicked,
        "converted": [int(c and rng.random() < 0.5) for c in clicked],
        "importance": [float(v) for v in rng.uniform(0.5, 2.0, n)],
        "teacher_score": _maybe(rng, n, lambda: float(rng.beta(1, 4)), missing=0.3),
        "scenario": [SCENARIOS[int(v)] for v in rng.integers(0, 2, n)],
        "request_id": [int(v) for v in np.arange(n) // 4],
        "user_id": [f"u{v}" for v in rng.integers(0, 20, n)],
        "time": [int(v) for v in 1_700_000_000 + np.arange(n)],
        "hour": [int(v) for v in rng.integers(0, 24, n)],
    }


def told_columns(rng: np.random.Generator, n: int) -> dict[str, list[Any]]:
    """As `columns`, with labels that a model can learn, differently in the two scenarios."""
    found = columns(rng, n)
    at = [2.0 * (c in ("de", "jp")) - 1.0 for c in found["country"]]
    at = [a if s == "standard" else 0.5 * a - 1.0 for a, s in zip(at, found["scenario"], strict=True)]
    p = 1 / (1 + np.exp(-np.array(at)))
    clicked = rng.random(n) < p
    found["clicked"] = clicked.astype(int).tolist()
    found["request_id"] = (np.arange(n) // 10).tolist()  # enough candidates for a funnel
    found["converted"] = (clicked & (rng.random(n) < p)).astype(int).tolist()
    found["teacher_score"] = [
        None if rng.random() < 0.3 else float(v) for v in np.clip(p + rng.normal(0, 0.05, n), 0, 1)
    ]
    return found


def rows(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """The same rows, each a dict."""
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def queries(rng: np.random.Generator, n: int) -> list[dict[str, Any]]:
    """Raw requests."""
    return rows(query_columns(rng, n))


def ads_table(rng: np.random.Generator, n: int, eligible: float = 0.8) -> pa.Table:
    """A corpus of n ads with distinct ids, bids and eligibility."""
    ids = [int(i) for i in rng.permutation(10 * n)[:n]]
    return pa.table(
        {
            **ad_columns(rng, n, ids),
            "bid": pa.array(rng.exponential(1.0, n), pa.float64()),
            "eligible": pa.array(rng.random(n) < eligible),
        }
    )


def golden_rows(rng: np.random.Generator, n: int) -> list[dict[str, dict[str, Any]]]:
    """Raw pairs for a bundle."""
    pairs = zip(queries(rng, n), rows(ad_columns(rng, n)), strict=True)
    return [{"query": query, "ad": ad} for query, ad in pairs]
