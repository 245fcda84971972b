"""Regret on AdWorld: what a model loses against the true probabilities, split into what no two-tower can express and
what this one missed.

The regret of a model is its mean KL(truth || model): the expectation of its log loss over the outcomes, less the
optimum's, so without the noise of the outcomes. What no two-tower can express is the regret of a reference,

    logit = b0 + b1 two-tower part + b2 interaction of rank r + b3 log(1 + impressions of the user) + b4 fatigue of the
            advertiser [ + b5 logit of a long click given a click ]

whose b minimise that regret on the same rows, per scenario (a convex problem, solved to its optimum). All of it fits
into D numbers per tower: `latent_dims` for the affinity, one for what depends on the query alone, one for what depends
on the ad alone, which leaves r = min(D - latent_dims - 2, segments - 1) for the interaction, whose best approximation
of that rank is its truncated SVD. Fatigue is per (user, advertiser): a two-tower sees that a user was shown many ads
and an advertiser many users, not which met. b1, b2 < 1 take the mean over what is not expressed: it is calibration.
A conversion given a click has a bilinear logit, and so a reference without regret.

Limits. The SVD is best for rows drawn uniformly over the segments, such as candidates. On winners, which the auction
draws to high interactions, a table of the same rank fitted by gradient descent came 3 % lower on rows that it had not
seen (seed 0, D = 32). The part of a long click's logit that is not bilinear counts as inexpressible, though D large
enough would express some of it. If D < latent_dims + 2, the reference is better than any two-tower so narrow. "Missed"
holds the rest: what could not be learned of so many rows, or not seen through the noise of the features. It may be
negative for a model of early interaction, which is no two-tower.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.special import expit, logit

from input_pipeline.adworld.features import FIRST_AD_ID
from input_pipeline.adworld.simulate import ORACLE_COLUMNS, AdWorldConfig, Batch, Log, days_of, simulate
from input_pipeline.adworld.truth import BASE_LOGIT, Requests, ad_quality, click_logit_parts, log_logits
from input_pipeline.adworld.world import SCENARIOS, SURFACES, World, build_world
from tt_jax.calibration.fits import fit_logistic
from tt_jax.metrics import probability

TASKS = ("click", "long_click", "conversion")
FIGURES = ("rows", "logloss", "bayes_logloss", "kl", "inexpressible", "missed")
Predict = Callable[[pa.Table], Mapping[str, np.ndarray]]


def regret(
    config: AdWorldConfig, split: str, log: Log, predict: Predict, output_dim: int, scenarios: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The regret of a model on the rows of a split and a log: `Truth.regret` of what it predicts for them.

    `predict`: table of log rows -> task -> probabilities float32 `[R]`, of some of `TASKS`. The others are those of
    `read_truth`.
    """
    found: dict[str, list[Mapping[str, np.ndarray]]] = {}
    truth = read_truth(config, split, log, scenarios, lambda s, rows: found.setdefault(s, []).append(predict(rows)))
    predicted = {s: {task: np.concatenate([p[task] for p in parts]) for task in parts[0]} for s, parts in found.items()}
    return truth.regret(predicted, output_dim)


def read_truth(
    config: AdWorldConfig,
    split: str,
    log: Log,
    scenarios: tuple[str, ...] = (),
    look: Callable[[str, pa.Table], None] = lambda scenario, rows: None,
) -> Truth:
    """What is true of the rows of a split and a log.

    Args:
      config: of the world, which is simulated again.
      split: see `split_of_day`.
      scenarios: those to look at; empty = all.
      look: called with the scenario and the log rows of each part, in the order of the log.
    """
    world, day_quality = build_world(config), {}
    found: dict[str, list[dict[str, np.ndarray]]] = {}
    for batch in simulate(config, (log,), days_of(config, split)):
        if scenarios and batch.scenario not in scenarios:
            continue
        if batch.day not in day_quality:
            day_quality[batch.day] = ad_quality(world, batch.day)
        look(batch.scenario, batch.table)
        found.setdefault(batch.scenario, []).append(_truth(world, batch, day_quality[batch.day]))
    return Truth(world, {s: {k: np.concatenate([r[k] for r in rows]) for k in rows[0]} for s, rows in found.items()})


@dataclass(frozen=True, eq=False)
class Truth:
    """The rows of a split and a log of a world.

    Attributes:
      world: that they are of.
      rows: scenario -> name -> `[R]`, in the order of the log: `request_id` and `ad_id` int64, and in float64 the true
        probabilities, the outcomes (NaN: not shown) and what the reference is made of.
    """

    world: World
    rows: dict[str, dict[str, np.ndarray]]
    _references: dict[tuple[str, str, int], np.ndarray] = field(default_factory=dict)

    @cached_property
    def _interaction(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return np.linalg.svd(self.world.interaction.astype(np.float64))

    def regret(self, predicted: Mapping[str, Mapping[str, np.ndarray]], output_dim: int) -> dict[str, Any]:
        """The regret of a model.

        Args:
          predicted: scenario -> task -> probabilities float32 `[R]`, of some of `TASKS`.
          output_dim: D of the reference two-tower.

        Returns `{"scenarios": {name: {task: figures}}, "overall": {task: figures}, "output_dim", "interaction_rank"}`.
        Figures are in nats, and all of one dict are of the same `rows`:

        - of all rows, in expectation over the outcomes (of conversion, each row weighs its true probability of a
          click): `logloss`, `bayes_logloss` (that of the truth), and their difference `kl`, the regret, which is
          `inexpressible` + `missed`;
        - under `outcomes` the same names, of the rows with an outcome: shown ones, of conversion clicked ones.
          `logloss` and `bayes_logloss` are those of the outcomes, so they differ by `kl` plus the noise of the
          outcomes; the others are in expectation. None without such a row.
        """
        rank = interaction_rank(self.world.config, output_dim)
        by_scenario = {name: self._with_model(name, predicted[name], rank) for name in self.rows}
        parts = list(by_scenario.values())
        everywhere = {k: np.concatenate([rows[k] for rows in parts]) for k in parts[0]}
        return {
            "scenarios": {name: _figures(rows) for name, rows in by_scenario.items()},
            "overall": _figures(everywhere),
            "output_dim": output_dim,
            "interaction_rank": rank,
        }

    def _with_model(self, scenario: str, predicted: Mapping[str, np.ndarray], rank: int) -> dict[str, np.ndarray]:
        found = {k: v for k, v in self.rows[scenario].items() if k.startswith(("true_", "label_"))}
        for task in (t for t in TASKS if t in predicted):
            key = (scenario, task, rank)
            if key not in self._references:
                left, values, right = self._interaction
                table = (left[:, :rank] * values[:rank]) @ right[:rank]
                self._references[key] = _reference(table, self.rows[scenario], task)
            found[f"model_{task}"] = predicted[task].astype(np.float64)
            found[f"reference_{task}"] = self._references[key]
        return found


def interaction_rank(config: AdWorldConfig, output_dim: int) -> int:
    """Rank of the interaction that a dot product of that width has room for, once it holds the two-tower part."""
    return max(0, min(output_dim - config.latent_dims - 2, config.segments - 1))


def _truth(world: World, batch: Batch, quality: np.ndarray) -> dict[str, np.ndarray]:
    """Of the rows of a batch, `[R]` each: the true probabilities, the outcomes, and what the reference is made of."""
    scenario, table = SCENARIOS.index(batch.scenario), batch.table

    def column(name: str) -> np.ndarray:
        return table.column(name).to_numpy()

    user, ad = column("user_id") - 1, column("ad_id") - FIRST_AD_ID
    surface = np.array([SURFACES.index(s) for s in table.column("surface").to_pylist()])
    requests = Requests(scenario, column("request_id"), column("time"), surface, column("hour").astype(np.int64), user)
    parts = click_logit_parts(world, quality, requests, ad[:, None])
    p = {task: batch.oracle.column(name).to_numpy() for task, name in zip(TASKS, ORACLE_COLUMNS, strict=True)}
    click = logit(p["click"].astype(np.float64))
    two_tower = parts.two_tower[:, 0].astype(np.float64) + float(BASE_LOGIT[scenario])
    clicked = column("click")
    return {
        "request_id": column("request_id"),
        "ad_id": column("ad_id"),
        "two_tower": two_tower,
        "long_given_click": log_logits(world, scenario, click.astype(np.float32), user, ad)[:, 1].astype(np.float64),
        "fatigue": two_tower + parts.interaction[:, 0] - click,
        "user_impressions": np.log1p(column("recent_impressions").astype(np.float64)),
        "user_segment": world.users.segment[user],
        "ad_segment": world.ads.segment[ad],
        "advertiser": world.ads.advertiser[ad],
        **{f"true_{task}": values.astype(np.float64) for task, values in p.items()},
        "label_click": clicked.astype(np.float64),  # NaN: not shown
        "label_long_click": column("long_click").astype(np.float64),
        "label_conversion": np.where(clicked == 1, column("conversion"), np.nan),
    }


def _reference(interaction: np.ndarray, rows: dict[str, np.ndarray], task: str) -> np.ndarray:
    """Probabilities float64 `[R]` of the reference for rows of one scenario, with the interaction that it can hold."""
    if task == "conversion":
        return rows["true_conversion"]
    of_advertiser = np.bincount(rows["advertiser"], rows["fatigue"]) / np.maximum(np.bincount(rows["advertiser"]), 1)
    terms = [
        rows["two_tower"],
        interaction[rows["user_segment"], rows["ad_segment"]],
        rows["user_impressions"],
        of_advertiser[rows["advertiser"]],
    ]
    if task == "long_click":
        terms.append(rows["long_given_click"])
    return fit_reference(np.stack(terms, 1), rows[f"true_{task}"])


def fit_reference(terms: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Fitted probabilities of the logistic regression on `terms` `[R, k]` and a constant with the least cross-entropy.

    `target` are probabilities within (0, 1), `[R]`; float64. Raises ValueError if it does not converge.
    """
    x = np.column_stack([np.ones(len(terms)), terms])
    start = np.concatenate([[logit(target.mean())], np.zeros(terms.shape[1])])
    return expit(x @ fit_logistic(x, target, np.ones(len(x)), start))


def _figures(rows: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    return {task: _task_figures(rows, task) for task in TASKS if f"model_{task}" in rows}


def _task_figures(rows: dict[str, np.ndarray], task: str) -> dict[str, Any]:
    truth, model, reference = (rows[f"{who}_{task}"] for who in ("true", "model", "reference"))
    weight = rows["true_click"] if task == "conversion" else np.ones_like(truth)
    label = rows[f"label_{task}"]
    has = ~np.isnan(label)
    of_outcomes = _of_outcomes(truth[has], model[has], reference[has], label[has])
    return {**_expected(truth, model, reference, weight), "outcomes": of_outcomes}


def _expected(truth: np.ndarray, model: np.ndarray, reference: np.ndarray, weight: np.ndarray) -> dict[str, Any]:
    """`FIGURES` in expectation over the outcomes of rows, float64 `[n]`; n >= 1."""
    bayes = probability.entropy(truth, weight)
    loss, of_reference = (probability.log_loss(p, truth, weight) for p in (model, reference))
    kl, inexpressible = loss - bayes, of_reference - bayes
    return dict(zip(FIGURES, (len(truth), loss, bayes, kl, inexpressible, kl - inexpressible), strict=True))


def _of_outcomes(truth: np.ndarray, model: np.ndarray, reference: np.ndarray, label: np.ndarray) -> dict[str, Any]:
    """`FIGURES` of rows with an outcome, whose log losses are those of the outcomes; float64 `[n]`."""
    if not len(label):
        return {**dict.fromkeys(FIGURES), "rows": 0}
    one = np.ones_like(label)
    losses = {name: probability.log_loss(p, label, one) for name, p in (("logloss", model), ("bayes_logloss", truth))}
    return {**_expected(truth, model, reference, one), **losses}
