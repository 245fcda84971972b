"""What AdWorld shows of itself: the schema, and the observable columns of users and ads (noisy views of the truth)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from input_pipeline.adworld.funnel import Memory
from input_pipeline.adworld.truth import ad_quality
from input_pipeline.adworld.world import SCENARIOS, SURFACES, TOP_CATEGORIES, AdWorldConfig, World
from tt_jax.schema import Feature, Schema, Task

FIRST_AD_ID = 1_000_001  # apart from the user ids, which start at 1, so that a mix-up of the two columns shows
COUNTRIES = ("us", "br", "jp", "de", "in", "gb", "fr", "mx", "id", "ca", "it", "pl")
DEVICES = ("ios", "android", "web")
_BUCKETS = 8  # a keyword names a latent dimension of the ad and the bucket of its noisy value there
_EMBEDDING_NOISE = 0.5


@dataclass(frozen=True)
class Observables:
    """The columns that do not change from day to day, one row per user and per ad; `quality_error` float32 `[ads]`."""

    users: pa.RecordBatch
    ads: pa.RecordBatch
    quality_error: np.ndarray


def schema(config: AdWorldConfig) -> Schema:
    """The schema of both AdWorld logs.

    Three heads learn the outcomes, which only impressions have, and the heavy ranker's probabilities, which candidates
    have too. A conversion is of a click: where there was none, it has no outcome.
    """
    masks = {"click": "", "long_click": "", "conversion": "click"}
    return Schema(
        name="adworld",
        features=(*_query_features(config), *_ad_features(config)),
        tasks=(
            *(Task(name, name, mask=mask) for name, mask in masks.items()),
            *(Task(f"teacher_{name}", f"teacher_{name}", kind="soft", head=name) for name in masks),
        ),
        scenario="scenario",
        scenarios=SCENARIOS,
        request_id="request_id",
        user_id="user_id",
        ad_id="ad_id",
        time="time",
        slices=("surface",),
    )


def _query_features(config: AdWorldConfig) -> tuple[Feature, ...]:
    return (
        Feature("user_id", "categorical", "query", "int", hash_size=4 * config.users),
        Feature("scenario", "categorical", "query", vocabulary=SCENARIOS),
        Feature("surface", "categorical", "query", vocabulary=SURFACES),
        Feature("hour", "categorical", "query", "int", vocabulary=tuple(range(24))),
        Feature("country", "categorical", "query", vocabulary=COUNTRIES),
        Feature("device", "categorical", "query", vocabulary=DEVICES),
        Feature("user_segment", "categorical", "query", "int", hash_size=4 * config.segments),
        Feature("interests", "bag", "query", max_length=TOP_CATEGORIES, shares="category"),
        Feature("recent_clicks", "sequence", "query", "int", max_length=config.max_history, shares="ad_id"),
        Feature("account_age_days", "numeric", "query", transform="log1p", mean=5.0, std=0.8, indicator=True),
        Feature("engagement_index", "numeric", "query", indicator=True),
        Feature("recent_impressions", "numeric", "query", transform="log1p", mean=1.5, std=1.0),
        Feature("user_embedding", "dense", "query", dim=config.embedding_dims),
    )


def _ad_features(config: AdWorldConfig) -> tuple[Feature, ...]:
    all_ads = config.ads + config.new_ads_per_day * (config.days - 1)
    return (
        Feature("ad_id", "categorical", "ad", "int", hash_size=4 * all_ads),
        Feature("advertiser_id", "categorical", "ad", "int", hash_size=4 * config.advertisers),
        Feature("category", "categorical", "ad", vocabulary=_category_names(config)),
        Feature("ad_segment", "categorical", "ad", "int", hash_size=4 * config.segments),
        Feature("keywords", "bag", "ad", max_length=config.latent_dims, hash_size=4 * _BUCKETS * config.latent_dims),
        Feature("ad_age_days", "numeric", "ad", transform="log1p", mean=1.0, std=0.7),
        Feature("quality_index", "numeric", "ad", indicator=True),
        Feature("product_price", "numeric", "ad", transform="log1p", mean=3.0, std=0.8, indicator=True),
        Feature("creative_embedding", "dense", "ad", dim=config.embedding_dims),
    )


def _category_names(config: AdWorldConfig) -> tuple[str, ...]:
    return tuple(f"category_{i}" for i in range(config.categories))


def observe(world: World) -> Observables:
    """The static observable columns of a world."""
    rng = np.random.default_rng([world.config.seed, 2**32 - 1])  # apart from `build_world` and from every day's streams
    users, ads = _observe_users(world, rng), _observe_ads(world, rng)
    return Observables(users, ads, rng.standard_normal(len(world.ads.bid), np.float32))


def _observe_users(world: World, rng: np.random.Generator) -> pa.RecordBatch:
    users, config = world.users, world.config
    n = config.users
    shown = np.concatenate([users.latent, users.propensity[:, None], users.purchase[:, None]], axis=1)
    age = 0.5 * users.purchase + 0.85 * rng.standard_normal(n)
    engagement = 0.8 * users.propensity + 0.6 * rng.standard_normal(n)
    return pa.record_batch(
        {
            "user_id": pa.array(np.arange(1, n + 1)),
            "country": strings(_noisy_choice(users.latent, len(COUNTRIES), rng), COUNTRIES),
            "device": strings(_noisy_choice(users.latent, len(DEVICES), rng), DEVICES),
            "user_segment": pa.array(users.segment),
            "interests": _bag(
                users.top_categories, rng.random(users.top_categories.shape) < 0.8, _category_names(config)
            ),
            "account_age_days": _with_nulls(np.floor(np.exp(5 + 0.8 * age)), rng.random(n) < 0.1),
            "engagement_index": _with_nulls(engagement, rng.random(n) < 0.15),
            "user_embedding": _dense(shown, config.embedding_dims, rng),
        }
    )


def _observe_ads(world: World, rng: np.random.Generator) -> pa.RecordBatch:
    ads, config = world.ads, world.config
    n = len(ads.bid)
    shown = np.concatenate([ads.latent, ads.landing[:, None], ads.offer[:, None]], axis=1)
    noisy = ads.latent + 0.4 * rng.standard_normal(ads.latent.shape)
    bucket = np.clip(np.floor(noisy * 1.6) + _BUCKETS // 2, 0, _BUCKETS - 1).astype(np.int32)
    keyword = bucket + _BUCKETS * np.arange(config.latent_dims, dtype=np.int32)
    names = tuple(f"keyword_{i}" for i in range(_BUCKETS * config.latent_dims))
    price = np.round(np.exp(3 + 0.8 * (0.6 * ads.offer + 0.8 * rng.standard_normal(n))), 2)
    return pa.record_batch(
        {
            "ad_id": pa.array(ad_ids(np.arange(n))),
            "advertiser_id": pa.array(ads.advertiser.astype(np.int64) + 1),
            "category": strings(ads.category, _category_names(config)),
            "ad_segment": pa.array(ads.segment),
            "keywords": _bag(keyword, rng.random(keyword.shape) < 0.7, names),
            "product_price": _with_nulls(price, ads.scenario != SCENARIOS.index("shopping")),
            "creative_embedding": _dense(shown, config.embedding_dims, rng),
        }
    )


def users_on(seen: Observables, memory: Memory) -> pa.RecordBatch:
    """All columns of all users, with what they did up to the previous midnight."""
    clicked = memory.clicked >= 0
    clicks = pa.ListArray.from_arrays(_offsets(clicked), pa.array(ad_ids(memory.clicked[clicked])))
    return _append(seen.users, {"recent_clicks": clicks, "recent_impressions": pa.array(memory.shown.copy())})


def ads_on(world: World, seen: Observables, day: int) -> pa.RecordBatch:
    """All columns of all ads on a day. The quality index shows the day before: an ad has none on its first day."""
    age = day - world.ads.birth
    index = 0.8 * ad_quality(world, max(day - 1, 0)) + 0.6 * seen.quality_error
    return _append(
        seen.ads,
        {
            "ad_age_days": pa.array(np.maximum(age, 0).astype(np.float32)),  # ads yet unborn are in no log
            "quality_index": _with_nulls(index, age <= 0 if day else np.zeros(len(age), bool)),
        },
    )


def ad_ids(ad: np.ndarray) -> np.ndarray:
    """The public ids of ads given by row, int64."""
    return ad.astype(np.int64) + FIRST_AD_ID


def strings(code: np.ndarray, names: tuple[str, ...]) -> pa.DictionaryArray:
    """Strings by code. The index type is the one `pyarrow.parquet` gives a partition column, so that the two unify."""
    return pa.DictionaryArray.from_arrays(pa.array(code.astype(np.int32)), pa.array(names, pa.string()))


def _append(batch: pa.RecordBatch, columns: dict[str, pa.Array]) -> pa.RecordBatch:
    return pa.record_batch(batch.columns + list(columns.values()), names=[*batch.schema.names, *columns])


def _with_nulls(values: np.ndarray, missing: np.ndarray) -> pa.Array:
    return pa.array(values.astype(np.float32), mask=missing)


def _offsets(kept: np.ndarray) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int32))


def _bag(code: np.ndarray, kept: np.ndarray, names: tuple[str, ...]) -> pa.ListArray:
    # Plain strings: pyarrow cannot read back a list of dictionary values from several row groups.
    return pa.ListArray.from_arrays(_offsets(kept), pa.array(names, pa.string()).take(pa.array(code[kept])))


def _noisy_choice(latent: np.ndarray, options: int, rng: np.random.Generator) -> np.ndarray:
    """A categorical view of `latent`: the best of linear scores under Gumbel noise."""
    scores = latent @ rng.standard_normal((latent.shape[1], options), np.float32)
    return np.argmax(0.7 * scores + rng.gumbel(size=scores.shape), axis=1)


def _dense(shown: np.ndarray, dims: int, rng: np.random.Generator) -> pa.FixedSizeListArray:
    """A random linear image of `shown`, of unit scale, under noise."""
    image = shown @ rng.standard_normal((shown.shape[1], dims)) / np.sqrt(shown.shape[1])
    image += _EMBEDDING_NOISE * rng.standard_normal(image.shape)
    return pa.FixedSizeListArray.from_arrays(pa.array(image.astype(np.float32).ravel()), dims)
