"""AdWorld's funnel: requests -> candidates -> heavy ranker -> auction -> impressions -> engagement.

Shapes: N requests of a chunk, C candidates each, K slots, R log rows. Users, ads and categories are rows of `World`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from input_pipeline.adworld.truth import Probabilities, Requests, ad_quality
from input_pipeline.adworld.world import HOUR_SHARE, SCENARIOS, SURFACE_SHARE, TOP_CATEGORIES, World

DAY_0 = 1_735_689_600  # 2025-01-01 00:00:00 UTC, Unix seconds
DAY = 86_400
_POOL = 16_384  # draws from the popularity distribution, made once per day and scenario
_NO_CLICKS = (np.empty(0, np.int64),) * 3  # time, user, ad
_RECENT = 0.7  # what a day leaves of an exposure count


@dataclass(frozen=True)
class Inventory:
    """The ads of one scenario on one day.

    `alive` int32 `[m]`, ordered by category; `start`, `size` int64 `[categories]`: where each category stands in it (a
    category without ads: all of it); `popular` int32 `[_POOL]`: draws by popularity; `quality` float32 `[ads]`.
    """

    alive: np.ndarray
    start: np.ndarray
    size: np.ndarray
    popular: np.ndarray
    quality: np.ndarray


@dataclass(frozen=True)
class Auction:
    """`[N, K]` each: `winners` int64, candidate columns, best first; `price` float32, per click; `shown` bool, False
    where there were fewer valid candidates than slots.
    """

    winners: np.ndarray
    price: np.ndarray
    shown: np.ndarray


@dataclass(frozen=True)
class Labels:
    """Outcomes of an impression: bool `[R]` each. There is no long click and no conversion without a click."""

    click: np.ndarray
    long_click: np.ndarray
    conversion: np.ndarray


class Memory:
    """What users have seen and clicked, as of the previous midnight: the only state of a world.

    Attributes:
      clicked: int32 `[users, max_history]`, the ads clicked last, oldest first, -1 where there are none.
      shown: float32 `[users]`, recent impressions; each day counts for 0.7 of the one after it.
    """

    def __init__(self, world: World) -> None:
        config = world.config
        self.clicked = np.full((config.users, config.max_history), -1, np.int32)
        self.shown = np.zeros(config.users, np.float32)
        # Counts by (user, advertiser), in a hash table without collision handling: memory follows the impressions of a
        # day up to a limit (2 x 64 MiB), not users x advertisers. Past it, fatigue is blurred by collisions.
        self._bits = min(24, int(np.ceil(np.log2(8 * len(SCENARIOS) * config.requests_per_day * config.slots))))
        self._pairs = np.zeros(1 << self._bits, np.float32)
        self._advertiser, self._advertisers = world.ads.advertiser.astype(np.uint64), np.uint64(config.advertisers)
        self._shown_today, self._pairs_today = np.zeros_like(self.shown), np.zeros_like(self._pairs)
        self._clicks = [_NO_CLICKS]

    def _slot(self, user: np.ndarray, ad: np.ndarray) -> np.ndarray:
        pair = user.astype(np.uint64) * self._advertisers + self._advertiser[ad]
        return (pair * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - self._bits)  # Fibonacci hashing

    def exposures(self, user: np.ndarray, ad: np.ndarray) -> np.ndarray:
        """Recent impressions of the ads' advertisers to the users: float32, of the broadcast shape."""
        return self._pairs[self._slot(user, ad)]

    def record(self, time: np.ndarray, user: np.ndarray, ad: np.ndarray, click: np.ndarray) -> None:
        """Takes note of impressions, `[R]` each; they count from midnight on."""
        np.add.at(self._shown_today, user, np.float32(1))
        np.add.at(self._pairs_today, self._slot(user, ad), np.float32(1))
        self._clicks.append((time[click], user[click], ad[click]))

    def midnight(self) -> None:
        """The day's impressions and clicks become the past."""
        for past, today in ((self.shown, self._shown_today), (self._pairs, self._pairs_today)):
            past *= np.float32(_RECENT)
            past += today
            today[:] = 0
        time, user, ad = (np.concatenate(c) for c in zip(*self._clicks, strict=True))
        self._clicks = [_NO_CLICKS]
        order = np.lexsort((time, user))  # stable: two clicks of one second stay in log order
        user, ad = user[order], ad[order]
        clickers, first, count = np.unique(user, return_index=True, return_counts=True)
        length = self.clicked.shape[1]
        column = np.arange(length) + np.minimum(count, length)[:, None]  # a user's old clicks move left
        padded = np.pad(self.clicked[clickers], ((0, 0), (0, length)), constant_values=-1)
        self.clicked[clickers] = np.take_along_axis(padded, column, axis=1)
        from_end = np.repeat(first + count, count) - 1 - np.arange(len(user))
        kept = from_end < length
        self.clicked[user[kept], length - 1 - from_end[kept]] = ad[kept]


def take_inventory(world: World, day: int, scenario: int, rng: np.random.Generator) -> Inventory:
    """The ads of a scenario that are alive on a day. Raises ValueError if they are too few to fill the slots."""
    ads, config = world.ads, world.config
    alive = np.flatnonzero((ads.scenario == scenario) & (ads.birth <= day) & (day < ads.end)).astype(np.int32)
    if len(alive) <= config.slots:
        raise ValueError(
            f"AdWorld day {day}, scenario {SCENARIOS[scenario]!r}: {len(alive)} ads alive, expected more than slots ="
            f" {config.slots}; raise AdWorldConfig.ads or lower ad_end_rate"
        )
    alive = alive[np.argsort(ads.category[alive], kind="stable")]
    size = np.bincount(ads.category[alive], minlength=config.categories)
    start = np.cumsum(size) - size
    start[size == 0], size[size == 0] = 0, len(alive)
    quality = ad_quality(world, day)
    popularity = np.cumsum(np.exp(quality[alive].astype(np.float64)))
    popular = alive[np.searchsorted(popularity, rng.random(_POOL) * popularity[-1])]
    return Inventory(alive, start, size, popular, quality)


def sample_requests(
    world: World, day: int, scenario: int, first: int, count: int, rng: np.random.Generator
) -> Requests:
    """Requests `first .. first + count` of a scenario's day."""
    config = world.config
    index = first + np.arange(count, dtype=np.int64)
    # One request in each of requests_per_day equal shares of the day's traffic: sorted without holding the whole day.
    share = (index + rng.random(count)) / config.requests_per_day
    second = np.interp(share, np.concatenate([[0.0], np.cumsum(HOUR_SHARE)]), np.arange(25) * 3600.0)
    second = np.minimum(second.astype(np.int64), DAY - 1)
    user = np.searchsorted(world.users.activity, rng.random(count))
    return Requests(
        scenario=scenario,
        request_id=((day * len(SCENARIOS) + scenario) << 32) + index,
        time=DAY_0 + day * DAY + second,
        surface=np.searchsorted(np.cumsum(SURFACE_SHARE[scenario])[:-1], rng.random(count)),
        hour=second // 3600,
        user=np.minimum(user, config.users - 1),
    )


def retrieve(
    world: World, inventory: Inventory, requests: Requests, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Candidates: half from the user's categories, a quarter popular, a quarter at random.

    Returns the ads, int32 `[N, C]`, ascending, and which of them are no repetition, bool `[N, C]`.
    """
    n, c = len(requests.user), world.config.candidates
    matched, popular = c // 2, c // 4
    u = rng.random((n, c), np.float32)
    pick = rng.integers(0, TOP_CATEGORIES, (n, matched), np.int32)
    category = world.users.top_categories[requests.user[:, None], pick]
    size = inventory.size[category]
    offset = np.minimum((u[:, :matched] * size).astype(np.int64), size - 1)  # float32 rounding may reach size
    at_random = (u[:, matched + popular :] * len(inventory.alive)).astype(np.int64)
    ad = np.concatenate(
        [
            inventory.alive[inventory.start[category] + offset],
            inventory.popular[(u[:, matched : matched + popular] * _POOL).astype(np.int64) % _POOL],
            inventory.alive[np.minimum(at_random, len(inventory.alive) - 1)],
        ],
        axis=1,
    )
    ad.sort(axis=1)
    valid = np.ones(ad.shape, bool)
    np.not_equal(ad[:, 1:], ad[:, :-1], out=valid[:, 1:])
    return ad, valid


def auction(bid: np.ndarray, p_click: np.ndarray, valid: np.ndarray, slots: int, reserve: float) -> Auction:
    """Generalised second-price auction on bid x p: a winner pays, per click, what would just keep its place.

    `bid` and `p_click` float32 `[N, C]`, `valid` bool `[N, C]`: an invalid candidate never wins. With C > slots.
    """
    score = np.where(valid, bid * p_click, np.float32(0))
    best = np.argpartition(-score, slots, axis=1)[:, : slots + 1]
    order = np.argsort(-np.take_along_axis(score, best, axis=1), axis=1, kind="stable")
    best = np.take_along_axis(best, order, axis=1)
    winners, ranked = best[:, :slots], np.take_along_axis(score, best, axis=1)
    price = ranked[:, 1:] / np.take_along_axis(p_click, winners, axis=1)
    own = np.take_along_axis(bid, winners, axis=1)
    return Auction(winners, np.clip(price, np.float32(reserve), own), np.take_along_axis(valid, winners, axis=1))


def engage(p: Probabilities, draws: np.ndarray) -> Labels:
    """What users did, from uniform `draws` `[R, 2]`."""
    click = draws[:, 0] < p.click
    # Given a click, draws[:, 0] / p.click is again uniform, so one draw serves the click and the long click.
    return Labels(click, draws[:, 0] < p.long_click, click & (draws[:, 1] < p.conversion))
