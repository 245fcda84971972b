"""AdWorld's truth: the probabilities of a click, a long click and a conversion.

The true click logit of a request (n), user and ad is

    base + logit_std * ( sqrt(1 - share) * two-tower part + sqrt(share) * interaction ) - fatigue

where the two-tower part is a dot product of a query vector and an ad vector, and the interaction a table over user
segments x ad segments whose singular values are all equal: the best D-wide dot product recovers D / (segments - 1) of
its variance.

Shapes: N requests of a chunk, C candidates each, R log rows. Users, ads and categories are rows of `World`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from input_pipeline.adworld.world import SCENARIOS, World, standardise

BASE_LOGIT = np.array([-6.2, -5.7], np.float32)  # of a click, by scenario
_AFFINITY, _QUALITY, _PROPENSITY, _CONTEXT = 0.45, 0.25, 0.2, 0.1  # shares of the two-tower part's variance


@dataclass(frozen=True)
class Requests:
    """Requests of one scenario, in time order: `[N]` each.

    `request_id` int64, unique in the world; `time` int64, Unix seconds; `surface`, `hour` and `user` int64 indices.
    """

    scenario: int
    request_id: np.ndarray
    time: np.ndarray
    surface: np.ndarray
    hour: np.ndarray
    user: np.ndarray


@dataclass(frozen=True)
class LogitParts:
    """Parts of the click logit, before base rate and fatigue: float32 `[N, C]`."""

    two_tower: np.ndarray
    interaction: np.ndarray


@dataclass(frozen=True)
class Probabilities:
    """Of a click, of a long click, and of a conversion *given a click*: float32 `[R]` each."""

    click: np.ndarray
    long_click: np.ndarray
    conversion: np.ndarray


def ad_quality(world: World, day: int) -> np.ndarray:
    """Quality of every ad on a day, drift included: mean 0, variance 1 over the ads of a scenario. float32 `[ads]`."""
    ads = world.ads
    raw = ads.quality + world.category_walk[day, ads.category] + world.advertiser_walk[day, ads.advertiser]
    quality = np.empty_like(ads.quality)
    for s in range(len(SCENARIOS)):
        quality[ads.scenario == s] = standardise(raw[ads.scenario == s])
    return quality


def click_logit_parts(world: World, quality: np.ndarray, requests: Requests, ad: np.ndarray) -> LogitParts:
    """The parts of the true click logit of requests and ads `[N, C]`; `quality` is `ad_quality` of the day."""
    users, ads, config, s = world.users, world.ads, world.config, requests.scenario
    query = np.float32(np.sqrt(_PROPENSITY)) * users.propensity[requests.user]
    context = world.surface_effect[s, requests.surface] + world.hour_effect[s, requests.hour]
    query += np.float32(np.sqrt(_CONTEXT / 2)) * context
    wanted = users.latent[requests.user] * (world.click_weights[s] * np.float32(np.sqrt(_AFFINITY)))
    two_tower = np.matmul(ads.latent[ad], wanted[:, :, None])[:, :, 0]
    two_tower += query[:, None]
    two_tower += (np.float32(np.sqrt(_QUALITY)) * quality)[ad]
    two_tower *= np.float32(config.logit_std * np.sqrt(1 - config.interaction_share))
    cell = (users.segment[requests.user] * config.segments)[:, None] + ads.segment[ad]
    scale = np.float32(config.logit_std * np.sqrt(config.interaction_share))
    return LogitParts(two_tower, (world.interaction * scale).ravel()[cell])


def click_logit(
    world: World, quality: np.ndarray, requests: Requests, ad: np.ndarray, exposures: np.ndarray
) -> np.ndarray:
    """The true click logit, fatigue included: float32 `[N, C]`.

    `quality`: `ad_quality` of the day, float32 `[ads]`. `exposures`: recent impressions of the ads' advertisers to the
    users, float32 `[N, C]`, see `input_pipeline.adworld.funnel.Memory.exposures`.
    """
    parts = click_logit_parts(world, quality, requests, ad)
    fatigue = np.float32(world.config.fatigue) * np.log1p(exposures)
    return parts.two_tower + parts.interaction + BASE_LOGIT[requests.scenario] - fatigue


def log_logits(world: World, scenario: int, click: np.ndarray, user: np.ndarray, ad: np.ndarray) -> np.ndarray:
    """The true logits of a click, of a long click given a click, and of a conversion given a click: float32 `[R, 3]`.

    `click` are the click logits of users and ads, `[R]` each.
    """
    users, ads = world.users, world.ads
    latent, wanted = users.latent[user], ads.latent[ad]
    long_match = np.einsum("rl,rl->r", latent * world.long_weights[scenario], wanted)
    offer_match = np.einsum("rl,rl->r", latent * world.conversion_weights[scenario], wanted)
    long_click = -0.6 + 0.7 * ads.landing[ad] + 0.7 * long_match
    conversion = -2.3 + 0.6 * ads.offer[ad] + 0.5 * users.purchase[user] + 0.6 * offer_match
    return np.stack([click, long_click, conversion], axis=1)


def probabilities(logits: np.ndarray) -> Probabilities:
    """From the logits of `log_logits`, with or without a ranker's error, `[R, 3]`."""
    p = sigmoid(logits)
    return Probabilities(p[:, 0], p[:, 0] * p[:, 1], p[:, 2])


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Logistic function, in the dtype of `x`."""
    return 1 / (1 + np.exp(-x))
