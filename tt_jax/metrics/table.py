"""The table of metrics of a task: what evaluation, training logs, comparisons, intervals and pages know of each.

To add a metric is to add its row, and its function: see docs/how-to/add_a_metric.md.

Shapes: n labelled rows, R weightings. A weighting says how often a row counts: once in a report, as often as its
cluster was drawn in a bootstrap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from tt_jax.metrics import probability, ranking


@dataclass(frozen=True)
class Metric:
    """A row of the table.

    Attributes:
      name: in JSON, and of `train.early_stop`.
      needs: what its `function` is given, and so whether it has an interval:
        `counts`: the `TaskRows`; it is a count, without an interval, a direction or a mean over seeds.
        `sums`: term -> float64 `[R]`, its sum over the rows, of `TERMS` and its own `terms`; it returns float64 `[R]`,
          NaN where it is undefined. All weightings are one call.
        `order`: the `TaskRows`, and float64 `[n]` weights and weighted labels of a weighting; it returns a number,
          or None. It is called once a weighting.
        `rows`: the `TaskRows`; it returns a number, or None. It has no interval.
      function: see `needs`.
      label: of a column, for people.
      meaning: in a few words.
      better: the direction, `higher` or `lower`; None = neither is, and no run can stop by it.
      unit: of the value; "" = none.
      soft: whether it is of a teacher's labels only, and undefined elsewhere.
      terms: further terms of `sums`: name -> (predictions, labels, float64 `[n]`) -> float64 `[n]`.
      brief: whether tables in a terminal show it.
    """

    name: str
    needs: Literal["counts", "sums", "order", "rows"]
    function: Callable[..., Any]
    label: str
    meaning: str
    better: Literal["higher", "lower"] | None = None
    unit: str = ""
    soft: bool = False
    terms: Mapping[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = field(default_factory=dict)
    brief: bool = True

    @property
    def definition(self) -> str:
        """Its meaning with its unit."""
        return f"{self.meaning}, in {self.unit}" if self.unit else self.meaning


# What is summed for every metric, weighted by the rows' weights: term -> (predictions, labels) -> values.
TERMS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "weight": lambda p, y: np.ones(y.size),
    "label": lambda p, y: y,
    "prediction": lambda p, y: p,
    "loss": probability.row_losses,
}


def _auc(rows: Any, weight: np.ndarray, label: np.ndarray) -> float | None:
    if not rows.ranked:
        return None
    weight, label = (ranking.running(values, rows.ties) for values in (weight, label))
    return ranking.area(label, weight - label)


def _gauc(rows: Any, weight: np.ndarray, label: np.ndarray) -> float | None:
    if not rows.ranked or rows.by_user is None:
        return None
    order, ties, user_bounds = rows.by_user
    won, lost = (ranking.running(values[order], ties) for values in (label, weight - label))
    return ranking.grouped_area(won, lost, user_bounds)


def _gauc_rows(rows: Any) -> int | None:
    if not rows.ranked or rows.by_user is None:
        return None
    order, ties, user_bounds = rows.by_user
    weight, label = rows.terms["weight"], rows.terms["label"]
    won, lost = (ranking.running(values[order], ties) for values in (label, weight - label))
    return ranking.grouped_rows(won, lost, ties, user_bounds)


def _calibration_error(rows: Any) -> float | None:
    weight, label, prediction = (
        ranking.running(rows.terms[name], rows.ties) for name in ("weight", "label", "prediction")
    )
    return probability.binned_calibration_error(weight, prediction - label) if weight[-1] > 0 else None


def _normalized_entropy(sums: Mapping[str, np.ndarray]) -> np.ndarray:
    constant = probability.binary_entropy(sums["label"] / sums["weight"])
    return np.where(constant > 0, sums["loss"] / sums["weight"] / constant, np.nan)


def _teacher_divergence(sums: Mapping[str, np.ndarray]) -> np.ndarray:
    # Rounding alone takes a KL below 0.
    return np.maximum(0.0, (sums["loss"] - sums["entropy"]) / sums["weight"])


_ROWS = (
    Metric("rows", "counts", lambda rows: rows.row.size, "rows",
           "rows with a label of the task; the metrics of a line are of these rows"),
    Metric("positives", "counts", lambda rows: rows.positives, "positives", "sum of their labels", brief=False),
    Metric("auc", "order", _auc, "AUC",
           "chance that a positive row outscores a negative one; a tie counts one half", "higher"),
    Metric("gauc", "order", _gauc, "GAUC",
           "mean of per-user AUC over users with both labels, weighted by impressions", "higher"),
    Metric("gauc_rows", "counts", _gauc_rows, "rows of GAUC", "rows of users with both labels, which gauc is of"),
    Metric("logloss", "sums", lambda sums: sums["loss"] / sums["weight"], "log loss", "mean cross-entropy", "lower",
           "nats"),
    Metric("ne", "sums", _normalized_entropy, "NE", "log loss / log loss of the best constant (normalized entropy)",
           "lower"),
    Metric("calibration", "sums",
           lambda sums: np.where(sums["label"] > 0, sums["prediction"] / sums["label"], np.nan), "calibration",
           "sum p / sum y"),
    Metric("ece", "rows", _calibration_error, "ECE", "mean over 20 bins of equal weight by p of abs(mean p - mean y);"
           " noise makes it larger; it has no interval", "lower"),
    Metric("kl", "sums", _teacher_divergence, "KL to teacher", "log loss - entropy of the teacher's labels", "lower",
           "nats", soft=True, terms={"entropy": lambda p, y: probability.binary_entropy(y)}, brief=False),
    Metric("logmae", "sums", lambda sums: sums["log_error"] / sums["weight"], "LogMAE",
           "mean abs(ln p - ln teacher)", "lower", soft=True, terms={"log_error": probability.row_log_errors},
           brief=False),
)  # fmt: skip
METRICS = {metric.name: metric for metric in _ROWS}  # in the order of reports


def with_interval() -> tuple[str, ...]:
    """The metrics that have one."""
    return tuple(name for name, metric in METRICS.items() if metric.needs in ("sums", "order"))


def counts() -> tuple[str, ...]:
    """Those that count rows or labels."""
    return tuple(name for name, metric in METRICS.items() if metric.needs == "counts")


def terms_of(soft: bool) -> dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]:
    """All terms that the metrics of hard, or of soft, labels need."""
    return TERMS | {
        name: term for metric in METRICS.values() if soft or not metric.soft for name, term in metric.terms.items()
    }
