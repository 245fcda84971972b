"""AdWorld's rules and population: the config, the users, the ads, and what is true of them.

Latent interests drive all observable features through noise (`features.py` beside this), and all true logits without
(`truth.py`). Every term of a logit has a known variance over uniformly drawn users and ads, by construction.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

SCENARIOS = ("standard", "shopping")
SURFACES = ("home_feed", "search", "related")
TOP_CATEGORIES = 5  # a user's categories of interest: retrieval draws from them, the `interests` bag shows them

# Indexed by scenario.
SURFACE_SHARE = np.array([[0.6, 0.15, 0.25], [0.3, 0.45, 0.25]])  # of the requests
_HOURS = np.sin((np.arange(24) - 13) * (2 * np.pi / 24))
HOUR_SHARE = (1 + 0.6 * _HOURS) / 24
_SURFACE_EFFECT = np.array([[-0.3, 0.9, 0.1], [-0.7, 0.8, 0.2]])
_BID_MEDIAN = np.array([0.6, 0.4], np.float32)  # currency per click


@dataclass(frozen=True)
class AdWorldConfig:
    """The size and the rules of a world. The same config gives the same bytes.

    Attributes:
      seed: of everything, 0 <= seed < 2**32.
      users, advertisers: how many.
      ads: alive on day 0, over both scenarios.
      days: logged; the last is the test split, the last but one the eval split.
      requests_per_day: of each scenario.
      candidates: ads that retrieval passes on per request (a duplicate is dropped, so a few fewer).
      logged_candidates: of these, how many the candidate log keeps, drawn uniformly.
      slots: ads shown per request.
      categories, segments: ad categories; user segments and ad segments of the interaction.
      latent_dims, embedding_dims: of the interests, and of the dense embeddings that show them.
      max_history: clicked ads kept per user.
      logit_std: of the true click logit over uniformly drawn users and ads of a scenario.
      interaction_share: of that variance, the share of the interaction.
      drift: daily standard deviation of the random walks of category and advertiser quality (whose own is about 1).
      fatigue: fall of the logit per log(1 + recent impressions of this advertiser to this user).
      new_ads_per_day: over both scenarios, every day but the first.
      ad_end_rate: daily probability that an ad's campaign ends.
      heavy_noise: standard deviation of the heavy ranker's logit error.
      reserve: lowest price per click, and lowest bid.
    """

    seed: int = 0
    users: int = 20_000
    advertisers: int = 300
    ads: int = 3_000
    days: int = 5
    requests_per_day: int = 10_000
    candidates: int = 32
    logged_candidates: int = 8
    slots: int = 4
    categories: int = 24
    segments: int = 128
    latent_dims: int = 8
    embedding_dims: int = 16
    max_history: int = 10
    logit_std: float = 1.7
    interaction_share: float = 0.08
    drift: float = 0.15
    fatigue: float = 0.15
    new_ads_per_day: int = 60
    ad_end_rate: float = 0.02
    heavy_noise: float = 0.3
    reserve: float = 0.05

    def __post_init__(self) -> None:
        low = {"days": 3, "users": 2, "candidates": self.slots + 1, "categories": TOP_CATEGORIES, "segments": 2}
        low |= {"seed": 0, "new_ads_per_day": 0, "logged_candidates": 0}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "int" and value < low.get(field.name, 1):
                raise ValueError(f"AdWorldConfig.{field.name}: expected >= {low.get(field.name, 1)}, got {value}")
            if field.type == "float" and not 0 <= value < np.inf:
                raise ValueError(f"AdWorldConfig.{field.name}: expected a number >= 0, got {value}")
        for name, end in (("seed", 2**32), ("logged_candidates", self.candidates + 1)):
            if getattr(self, name) >= end:
                raise ValueError(f"AdWorldConfig.{name}: expected < {end}, got {getattr(self, name)}")
        for name in ("interaction_share", "ad_end_rate"):
            if getattr(self, name) > 1:
                raise ValueError(f"AdWorldConfig.{name}: expected a number in 0..1, got {getattr(self, name)}")
        if self.ads < 4 * self.candidates:
            raise ValueError(f"AdWorldConfig.ads: expected >= 4 x candidates = {4 * self.candidates}, got {self.ads}")


@dataclass(frozen=True)
class Users:
    """Truth about users: `[users]`, or `[users, ...]`. float32 unless said otherwise.

    `latent`, `propensity` to click, `purchase` propensity: mean 0, variance 1. `segment` int32. `top_categories` int32
    `[users, TOP_CATEGORIES]`. `activity` float64: cumulative share of the requests.
    """

    latent: np.ndarray
    propensity: np.ndarray
    purchase: np.ndarray
    segment: np.ndarray
    top_categories: np.ndarray
    activity: np.ndarray


@dataclass(frozen=True)
class Ads:
    """Truth about all ads that ever live: `[ads]`, or `[ads, latent_dims]`.

    `latent`, `quality` (before drift), `landing` and `offer` (what follows a click) float32; `scenario`, `advertiser`,
    `category`, `segment` int32; alive on the days `birth <= day < end`, int32; `bid` float32, currency per click.
    """

    latent: np.ndarray
    quality: np.ndarray
    landing: np.ndarray
    offer: np.ndarray
    scenario: np.ndarray
    advertiser: np.ndarray
    category: np.ndarray
    segment: np.ndarray
    birth: np.ndarray
    end: np.ndarray
    bid: np.ndarray


@dataclass(frozen=True)
class World:
    """A population with its rules: everything that is fixed before the first request.

    `click_weights`, `long_weights`, `conversion_weights` float32 `[scenarios, latent_dims]`: the interests that matter,
    scaled so that `user * weights . ad` has variance 1. `surface_effect` `[scenarios, surfaces]`, `hour_effect`
    `[scenarios, 24]`, `interaction` `[segments, segments]`, `category_walk` `[days, categories]` and `advertiser_walk`
    `[days, advertisers]`: float32.
    """

    config: AdWorldConfig
    users: Users
    ads: Ads
    click_weights: np.ndarray
    long_weights: np.ndarray
    conversion_weights: np.ndarray
    surface_effect: np.ndarray
    hour_effect: np.ndarray
    interaction: np.ndarray
    category_walk: np.ndarray
    advertiser_walk: np.ndarray


def build_world(config: AdWorldConfig) -> World:
    """The world of a config."""
    rng = np.random.default_rng([config.seed])
    centres = rng.standard_normal((config.categories, config.latent_dims))
    users = _users(config, rng, centres)
    ads = _ads(config, rng, centres)
    ramp = 0.6 ** np.arange(config.latent_dims)  # the first interests matter most for standard ads,
    both = np.stack([ramp, ramp[::-1]])  # the last for shopping
    walk = rng.standard_normal((config.days, config.categories + config.advertisers)) * config.drift
    walk = np.cumsum(walk, axis=0).astype(np.float32)
    return World(
        config,
        users,
        ads,
        click_weights=_affinity_scale(both, users, ads),
        long_weights=_affinity_scale(both + 0.3, users, ads),
        conversion_weights=_affinity_scale(both[::-1] + 0.3, users, ads),
        surface_effect=np.stack([standardise(e, p) for e, p in zip(_SURFACE_EFFECT, SURFACE_SHARE, strict=True)]),
        hour_effect=np.stack([standardise(np.roll(_HOURS, k), HOUR_SHARE) for k in (4, 10)]),
        interaction=_interaction(config, rng),
        category_walk=walk[:, : config.categories],
        advertiser_walk=walk[:, config.categories :],
    )


def standardise(x: np.ndarray, share: np.ndarray | None = None) -> np.ndarray:
    """`x` with mean 0 and variance 1 along its first axis (weighted by `share`), float32."""
    mean = np.average(x, axis=0, weights=share)
    std = np.sqrt(np.average(np.square(x - mean), axis=0, weights=share))
    return ((x - mean) / std).astype(np.float32)


def _users(config: AdWorldConfig, rng: np.random.Generator, centres: np.ndarray) -> Users:
    n = config.users
    latent = standardise(rng.standard_normal((n, config.latent_dims)))
    seen = latent @ centres.T.astype(np.float32) + 1.5 * rng.standard_normal((n, config.categories), np.float32)
    top = np.argpartition(-seen, TOP_CATEGORIES - 1, axis=1)[:, :TOP_CATEGORIES]
    activity = np.cumsum(np.exp(0.8 * rng.standard_normal(n)))
    return Users(
        latent=latent,
        propensity=standardise(rng.standard_normal(n)),
        purchase=standardise(rng.standard_normal(n)),
        segment=(rng.permutation(n) % config.segments).astype(np.int32),
        top_categories=top.astype(np.int32),
        activity=activity / activity[-1],
    )


def _ads(config: AdWorldConfig, rng: np.random.Generator, centres: np.ndarray) -> Ads:
    n = config.ads + config.new_ads_per_day * (config.days - 1)
    scenario = (np.arange(n) % len(SCENARIOS)).astype(np.int32)
    advertiser = rng.integers(0, config.advertisers, n)
    # An advertiser sells within three categories.
    category = rng.integers(0, config.categories, (config.advertisers, 3))[advertiser, rng.integers(0, 3, n)]
    latent = 0.75 * centres[category] + 0.65 * rng.standard_normal((n, config.latent_dims))
    of_advertiser, of_category = rng.standard_normal(config.advertisers), rng.standard_normal(config.categories)
    quality = 0.6 * of_advertiser[advertiser] + 0.4 * of_category[category] + 0.7 * rng.standard_normal(n)
    birth = np.repeat(np.arange(config.days), [config.ads] + [config.new_ads_per_day] * (config.days - 1))
    life = rng.geometric(config.ad_end_rate, n) if config.ad_end_rate else np.full(n, config.days)
    bid = _BID_MEDIAN[scenario] * np.exp(0.35 * rng.standard_normal(n))
    return Ads(
        latent=standardise(latent),
        quality=standardise(quality),
        landing=standardise(rng.standard_normal(n)),
        offer=standardise(rng.standard_normal(n)),
        scenario=scenario,
        advertiser=advertiser.astype(np.int32),
        category=category.astype(np.int32),
        segment=(rng.permutation(n) % config.segments).astype(np.int32),
        birth=birth.astype(np.int32),
        end=np.minimum(birth + life, config.days).astype(np.int32),
        bid=np.maximum(np.round(bid, 2), config.reserve).astype(np.float32),
    )


def _affinity_scale(weights: np.ndarray, users: Users, ads: Ads) -> np.ndarray:
    """`weights` `[scenarios, latent_dims]` scaled to `Var(user * weights . ad) = 1`, user and ad drawn independently.

    With second moments U and A: `E[(u' W a)^2] = trace(U W A W)`, and the mean is 0 because the users' mean is.
    """
    second_u = users.latent.T.astype(np.float64) @ users.latent / len(users.latent)
    scaled = []
    for s, w in enumerate(weights):
        a = ads.latent[ads.scenario == s].astype(np.float64)
        scaled.append(w / np.sqrt(np.trace(second_u @ np.diag(w) @ (a.T @ a / len(a)) @ np.diag(w))))
    return np.stack(scaled).astype(np.float32)


def _interaction(config: AdWorldConfig, rng: np.random.Generator) -> np.ndarray:
    """A table of mean 0 by row and by column, variance 1, rank segments - 1, all its singular values equal."""
    n = config.segments
    bases = [np.linalg.qr(np.column_stack([np.ones(n), rng.standard_normal((n, n - 1))]))[0][:, 1:] for _ in range(2)]
    return (bases[0] @ bases[1].T * (n / np.sqrt(n - 1))).astype(np.float32)
