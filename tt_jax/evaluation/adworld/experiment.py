"""What an experiment on AdWorld says: figures of both arms of a replay, by group of requests, with their intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from input_pipeline.adworld.world import SCENARIOS, SURFACES
from tt_jax.evaluation.adworld.replay import Outcomes
from tt_jax.features.hashing import mix64
from tt_jax.metrics.experiment import Effect, binomial_interval, paired_effects, split_effects

Design = Literal["paired", "split"]
FIGURES = {  # a ratio of sums over requests
    "ctr": ("clicks", "impressions"),
    "cpc": ("revenue", "clicks"),
    "long_click_rate": ("long_clicks", "impressions"),
    "conversion_rate": ("conversions", "clicks"),
    "conversions_per_request": ("conversions", "requests"),
    "revenue_per_request": ("revenue", "requests"),
    "recall": ("recalled", "wanted"),
}
SUMS = ("requests", "impressions", "clicks", "long_clicks", "conversions", "revenue", "wanted", "recalled")


def arm_of(users: np.ndarray, salt: int) -> np.ndarray:
    """0 (control) or 1 (treatment) for each user, int64: a hash, so a user is always in the same arm of a salt."""
    of_salt = mix64(np.array([salt], np.uint64) + np.uint64(1))  # mix64(0) is 0
    return (mix64(mix64(users.astype(np.uint64)) ^ of_salt) >> np.uint64(63)).astype(np.int64)


def groups(outcomes: Outcomes) -> dict[str, np.ndarray]:
    """Every scenario, `scenario/surface`, and `all` if there are several: bool `[R]`, those that have a request."""
    found = {}
    for s in np.unique(outcomes.scenario):
        found[SCENARIOS[s]] = outcomes.scenario == s
        for f in np.unique(outcomes.surface):
            found[f"{SCENARIOS[s]}/{SURFACES[f]}"] = found[SCENARIOS[s]] & (outcomes.surface == f)
    found = {name: rows for name, rows in found.items() if rows.any()}
    several = len(np.unique(outcomes.scenario)) > 1
    return {"all": np.ones(len(outcomes.user), bool), **found} if several else found


def sums(outcomes: Outcomes, design: Design, salt: int = 0) -> dict[str, np.ndarray]:
    """By name in `SUMS`, the sums of both arms, float64 `[2]`; of the split design, over the users of each."""
    if design == "paired":
        return {name: getattr(outcomes, name).sum(axis=0) for name in SUMS}
    arm = arm_of(outcomes.user, salt)
    own = _own_arm(outcomes, arm)
    return {name: np.bincount(arm, values, 2) for name, values in own.items()}


def effects(outcomes: Outcomes, design: Design, salt: int = 0, replicates: int = 1000) -> dict[str, Effect]:
    """The effect of the second ranker against the first on every figure.

    `design`: `paired` compares what both made of every request, `split` what each made of those of its own users, whom
    `salt` assigns. `replicates`: of the bootstrap over users (paired).
    """
    if design == "paired":
        both = {name: getattr(outcomes, name) for name in SUMS}
        return paired_effects(both, FIGURES, outcomes.user, replicates=replicates, seed=salt)
    arm = arm_of(outcomes.user, salt)
    return split_effects(_own_arm(outcomes, arm), FIGURES, outcomes.user, arm)


def report(outcomes: Outcomes, design: Design, salt: int = 0) -> dict[str, dict[str, Any]]:
    """Group -> its `sums` of both arms and its `effects`, ready for JSON."""
    found = {}
    for name, rows in groups(outcomes).items():
        part = outcomes.at(rows)
        found[name] = {
            "sums": {key: values.tolist() for key, values in sums(part, design, salt).items()},
            "effects": {figure: dataclasses.asdict(e) for figure, e in effects(part, design, salt).items()},
        }
    return found


def count_significant(replay: Callable[[int], Outcomes], experiments: int, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Figure -> how often the interval of a split experiment leaves out 0. Of two equal rankers: the false positives.

    `replay`: seed -> outcomes; called with `seed`, `seed + 1`, ...

    Returns `experiments`, those in which the figure had an interval; `significant`, those of them whose interval left
    out 0; and the `rate`, with its own 95 % interval `low`, `high`, see `binomial_interval`; None without one.
    """
    counted, significant = dict.fromkeys(FIGURES, 0), dict.fromkeys(FIGURES, 0)
    for salt in range(seed, seed + experiments):
        for figure, effect in effects(replay(salt), "split", salt).items():
            counted[figure] += effect.low is not None
            significant[figure] += effect.significant
    return {figure: _rate(significant[figure], counted[figure]) for figure in FIGURES}


def _rate(significant: int, experiments: int) -> dict[str, Any]:
    low, high = binomial_interval(significant, experiments) if experiments else (None, None)
    rate = significant / experiments if experiments else None
    return {"experiments": experiments, "significant": significant, "rate": rate, "low": low, "high": high}


def _own_arm(outcomes: Outcomes, arm: np.ndarray) -> dict[str, np.ndarray]:
    rows = np.arange(len(arm))
    return {name: getattr(outcomes, name)[rows, arm] for name in SUMS}
