"""AdWorld replayed under several lightweight rankers: an online experiment whose truth is known.

New requests of one day, with the users as they woke up that morning. Each ranker orders the same candidates of the
same requests and passes its best on to the heavy ranker and the auction; users click by the true probabilities. All
noise belongs to a (request, candidate): an ad shown by two rankers for one request has the same heavy score and the
same outcome, so what differs is what the rankers chose (common random numbers). Within a day nothing depends on what
was shown before (fatigue and histories count from midnight on), so neither ranker sees the other's traffic, and what a
ranker would change of the days after is not simulated.

Shapes: N requests of a chunk, C candidates each, L of them passed on, K slots, A rankers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from input_pipeline.adworld.features import observe, strings, users_on
from input_pipeline.adworld.funnel import Inventory, Memory, auction, engage, retrieve, sample_requests, take_inventory
from input_pipeline.adworld.simulate import memory_before
from input_pipeline.adworld.truth import Requests, click_logit, log_logits, probabilities, sigmoid
from input_pipeline.adworld.world import SCENARIOS, SURFACES, AdWorldConfig, World, build_world

# Requests, their columns as in the logs, and their candidates int32 [N, C] -> utilities [N, C], the higher the better.
# An ad is given by its row in `adworld.corpus`.
Ranker = Callable[[Requests, pa.Table, np.ndarray], np.ndarray]
CHUNK = 512  # requests: what a ranker gathers for them, 512 x 200 ad vectors, nearly fits a cache
_STREAM = 2**32 - 2  # apart from the streams of the logs and of `observe`


@dataclass(frozen=True)
class Morning:
    """A world on the morning of its last day, which no split but test has seen. Build it with `wake`."""

    world: World
    memory: Memory
    users: pa.RecordBatch

    @property
    def day(self) -> int:
        """The last one."""
        return self.world.config.days - 1


@dataclass(frozen=True)
class Replay:
    """How requests are replayed.

    Attributes:
      requests: new ones of the day, of one scenario.
      candidates: ads that retrieval finds for a request (a duplicate is dropped, so fewer).
      passed: of these, how many a ranker passes on to the heavy ranker; more than the world's slots.
      wanted: recall counts how many of the heavy ranker's best `wanted` of all candidates were passed on.
      seed: of the requests and of all that happens to them.
    """

    requests: int = 20_000
    candidates: int = 200
    passed: int = 32
    wanted: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low in (("requests", 1), ("candidates", 2), ("passed", 1), ("wanted", 1), ("seed", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"{name}: expected >= {low}, got {getattr(self, name)}")
        for name in ("passed", "wanted"):
            if getattr(self, name) > self.candidates:
                raise ValueError(f"{name}: expected at most candidates = {self.candidates}, got {getattr(self, name)}")
        if self.seed >= 2**32:
            raise ValueError(f"seed: expected < 2**32, got {self.seed}")


@dataclass(frozen=True)
class Outcomes:
    """What came of R requests under A rankers.

    Attributes:
      user, scenario, surface: int64 `[R]`, rows of `World.users`, indices of `SCENARIOS` and `SURFACES`.
      requests: float64 `[R, A]`, ones.
      impressions, clicks, long_clicks, conversions: float64 `[R, A]`, counts.
      revenue: float64 `[R, A]`: the prices of the clicks.
      wanted, recalled: float64 `[R, A]`: the heavy ranker's best candidates, and those of them that were passed on.
    """

    user: np.ndarray
    scenario: np.ndarray
    surface: np.ndarray
    requests: np.ndarray
    impressions: np.ndarray
    clicks: np.ndarray
    long_clicks: np.ndarray
    conversions: np.ndarray
    revenue: np.ndarray
    wanted: np.ndarray
    recalled: np.ndarray

    @staticmethod
    def concatenate(parts: Sequence[Outcomes]) -> Outcomes:
        """All requests of several."""
        return Outcomes(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in _FIELDS})

    def at(self, rows: np.ndarray) -> Outcomes:
        """Some of the requests."""
        return Outcomes(**{name: getattr(self, name)[rows] for name in _FIELDS})


_FIELDS = tuple(f.name for f in dataclasses.fields(Outcomes))


@dataclass(frozen=True, eq=False)
class _Chunk:
    """N requests with their candidates and all that chance decides: heavy ranker's error, what users would do."""

    world: World
    requests: Requests
    ad: np.ndarray
    valid: np.ndarray
    logit: np.ndarray
    noise: np.ndarray
    draws: np.ndarray

    @cached_property
    def heavy(self) -> np.ndarray:
        """The heavy ranker's click probabilities, float32 `[N, C]`."""
        return sigmoid(self.logit + self.noise)


def wake(config: AdWorldConfig) -> Morning:
    """Lives through all days of a world but the last."""
    world = build_world(config)
    memory = memory_before(world, config.days - 1)
    return Morning(world, memory, users_on(observe(world), memory))


def replay(morning: Morning, scenario: int, rankers: Sequence[Ranker], how: Replay) -> Outcomes:
    """Replays requests of a scenario under each ranker."""
    config = morning.world.config
    if how.passed <= config.slots:
        raise ValueError(f"passed: expected more than the world's slots = {config.slots}, got {how.passed}")
    return Outcomes.concatenate([_outcomes(morning, chunk, rankers, how) for chunk in _chunks(morning, scenario, how)])


def _chunks(morning: Morning, scenario: int, how: Replay) -> Iterator[_Chunk]:
    config = dataclasses.replace(
        morning.world.config,
        candidates=how.candidates,
        logged_candidates=0,
        requests_per_day=how.requests,
    )
    world = dataclasses.replace(morning.world, config=config)
    stream = [config.seed, _STREAM, how.seed, scenario]
    arrive, rank, act = (np.random.default_rng([*stream, i]) for i in range(3))
    inventory = take_inventory(world, morning.day, scenario, arrive)
    for first in range(0, how.requests, CHUNK):
        count = min(CHUNK, how.requests - first)
        requests = sample_requests(world, morning.day, scenario, first, count, arrive)
        yield _chunk(world, inventory, morning.memory, requests, arrive, rank, act)


def _chunk(
    world: World,
    inventory: Inventory,
    memory: Memory,
    requests: Requests,
    arrive: np.random.Generator,
    rank: np.random.Generator,
    act: np.random.Generator,
) -> _Chunk:
    ad, valid = retrieve(world, inventory, requests, arrive)
    exposures = memory.exposures(requests.user[:, None], ad)
    logit = click_logit(world, inventory.quality, requests, ad, exposures)
    noise = rank.standard_normal(ad.shape, np.float32) * np.float32(world.config.heavy_noise)
    return _Chunk(world, requests, ad, valid, logit, noise, act.random((*ad.shape, 2), np.float32))


def _outcomes(morning: Morning, chunk: _Chunk, rankers: Sequence[Ranker], how: Replay) -> Outcomes:
    wanted = _best(np.where(chunk.valid, morning.world.ads.bid[chunk.ad] * chunk.heavy, -np.inf), how.wanted)
    wanted &= chunk.valid
    queries = _queries(morning, chunk.requests)
    by_ranker: dict[Ranker, dict[str, np.ndarray]] = {}
    for rank in dict.fromkeys(rankers):  # one ranker as both arms is asked once
        utility = np.asarray(rank(chunk.requests, queries, chunk.ad))
        if utility.shape != chunk.ad.shape or np.isnan(utility).any():
            raise ValueError(f"a ranker: expected utilities {chunk.ad.shape} without NaN, got {utility.shape}")
        by_ranker[rank] = _sell(chunk, _best(np.where(chunk.valid, utility, -np.inf), how.passed) & chunk.valid, wanted)
    arms = [by_ranker[rank] for rank in rankers]
    by_name = {name: np.stack([arm[name] for arm in arms], 1) for name in arms[0]}
    r = chunk.requests
    return Outcomes(user=r.user, scenario=np.full(len(r.user), r.scenario), surface=r.surface, **by_name)


def _best(score: np.ndarray, k: int) -> np.ndarray:
    """Which of `score` `[N, C]` are the k largest of their row: bool `[N, C]`."""
    best = np.argpartition(-score, k - 1, axis=1)[:, :k]
    chosen = np.zeros(score.shape, bool)
    np.put_along_axis(chosen, best, True, axis=1)
    return chosen


def _sell(chunk: _Chunk, passed: np.ndarray, wanted: np.ndarray) -> dict[str, np.ndarray]:
    """The auction among the candidates `passed` bool `[N, C]`, and what users did: sums by request, float64 `[N]`."""
    world, r = chunk.world, chunk.requests
    bid = world.ads.bid[chunk.ad]
    sold = auction(bid, chunk.heavy, passed, world.config.slots, world.config.reserve)
    request, slot = np.nonzero(sold.shown)
    column = sold.winners[request, slot]
    user, ad = r.user[request], chunk.ad[request, column]
    truth = probabilities(log_logits(world, r.scenario, chunk.logit[request, column], user, ad))
    done = engage(truth, chunk.draws[request, column])

    def by_request(values: np.ndarray) -> np.ndarray:
        return np.bincount(request, values.astype(np.float64), len(r.user))

    return {
        "requests": np.ones(len(r.user)),
        "impressions": by_request(np.ones(len(request))),
        "clicks": by_request(done.click),
        "long_clicks": by_request(done.long_click),
        "conversions": by_request(done.conversion),
        "revenue": by_request(sold.price[request, slot] * done.click),
        "wanted": wanted.sum(axis=1, dtype=np.float64),
        "recalled": (wanted & passed).sum(axis=1, dtype=np.float64),
    }


def _queries(morning: Morning, requests: Requests) -> pa.Table:
    """The query columns of the logs for these requests."""
    users = morning.users.take(pa.array(requests.user))
    return pa.table(
        {
            "scenario": strings(np.full(len(requests.user), requests.scenario), SCENARIOS),
            "surface": strings(requests.surface, SURFACES),
            "hour": pa.array(requests.hour.astype(np.int32)),
            **dict(zip(users.schema.names, users.columns, strict=True)),
        }
    )
