"""The rows of a task, sorted by prediction once: every metric, of all rows or some, under any number of weightings.

A weighting says how often a row counts: once in a report, as often as its cluster was drawn in a bootstrap. What is a
ratio of weighted sums is computed from the sums; AUC and GAUC, which depend on the order of rows, from the rows. ECE is
of a report only. What the metrics are stands in `tt_jax.metrics.table`.

Shapes: n labelled rows, R weightings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tt_jax.metrics import ranking
from tt_jax.metrics.table import METRICS, terms_of

Metrics = dict[str, int | float | None]


@dataclass(frozen=True)
class TaskRows:
    """Labelled rows in the order of their predictions, those that tie in the order given.

    Attributes:
      row: int64 `[n]`, which of the rows given.
      p, y: predictions and labels `[n]`.
      terms: name -> float64 `[n]`, what is summed, times the weight of the row: see `table.terms_of`.
      users: int64 `[n]`, of `ranking.user_codes`; None if the logs have no user.
      soft: whether the labels are a teacher's probabilities.
    """

    row: np.ndarray
    p: np.ndarray
    y: np.ndarray
    terms: dict[str, np.ndarray]
    users: np.ndarray | None
    soft: bool

    @staticmethod
    def of(p: np.ndarray, y: np.ndarray, w: np.ndarray, users: np.ndarray | None, *, soft: bool) -> TaskRows:
        """Arguments as of `tt_jax.metrics.task_metrics`, `users` as here. Not checked: see `check_values`."""
        row = np.flatnonzero(~np.isnan(y))
        row = row[ranking.ascending(p[row])]
        p, y = p[row], y[row]
        p64, y64 = p.astype(np.float64), y.astype(np.float64)
        terms = {name: term(p64, y64) * w[row] for name, term in terms_of(soft).items()}
        return TaskRows(row, p, y, terms, None if users is None else users[row], soft)

    def part(self, chosen: np.ndarray) -> TaskRows:
        """Those of the rows given that are `chosen`, bool `[rows given]`; still sorted."""
        kept = np.flatnonzero(chosen[self.row])
        users = None if self.users is None else self.users[kept]
        terms = {name: values[kept] for name, values in self.terms.items()}
        return TaskRows(self.row[kept], self.p[kept], self.y[kept], terms, users, self.soft)

    def metrics(self) -> Metrics:
        """The report of `tt_jax.metrics.task_metrics`."""
        sums = {name: values.sum()[None] for name, values in self.terms.items()}
        found = {name: float(values[0]) for name, values in self.ratios(sums).items()} | self.ordered()
        for name, metric in METRICS.items():
            if metric.needs in ("counts", "rows"):
                found[name] = metric.function(self)
        return {name: _defined(found[name]) for name in METRICS}

    def ratios(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Metrics `[R]` of sums of the terms, `[R]`; NaN where one is undefined."""
        undefined = np.full(sums["weight"].size, np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            return {
                name: metric.function(sums) if self.soft or not metric.soft else undefined
                for name, metric in METRICS.items()
                if metric.needs == "sums"
            }

    def ordered(self, times: np.ndarray | None = None) -> dict[str, float | None]:
        """Metrics that need the order of rows, None where undefined.

        `times`: float64 `[n]`, how often each row counts; None = once.
        """
        weight, label = self.terms["weight"], self.terms["label"]
        if times is not None:
            weight, label = weight * times, label * times
        return {
            name: metric.function(self, weight, label) if self.soft or not metric.soft else None
            for name, metric in METRICS.items()
            if metric.needs == "order"
        }

    @property
    def positives(self) -> float | int:
        """Sum of the labels, an int of hard ones."""
        total = float(self.y.sum(dtype=np.float64))
        return total if self.soft else int(total)

    @cached_property
    def ranked(self) -> bool:
        """Whether the labels have two classes, so that rows can be ranked rightly or wrongly."""
        return not self.soft or bool(((self.y == 0) | (self.y == 1)).all())

    @cached_property
    def ties(self) -> np.ndarray:
        """Of `ranking.tie_bounds`: int64 `[G + 1]`."""
        return ranking.tie_bounds(self.p)

    @cached_property
    def by_user(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """The order of `ranking.by_user`, and its `ranking.user_ties`."""
        if self.users is None:
            return None
        order = ranking.by_user(self.users)
        return order, *ranking.user_ties(self.p[order], self.users[order])


def task_metrics(
    probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray, users: np.ndarray | None, *, soft: bool
) -> Metrics:
    """All metrics of one task over the rows that have a label; None where one is undefined, never NaN.

    Args:
      probabilities: float32 `[n]`, in [0, 1].
      labels: float32 `[n]`, NaN = no label; 0 or 1, or any probability if `soft`.
      weights: float32 `[n]`, >= 0.
      users: int64 `[n]`, the group of a row for `gauc`, -1 where it has none; None if the logs have no user.
      soft: the labels are a teacher's probabilities, so `kl` and `logmae` are defined, and `auc` and `gauc` are not
        unless all labels happen to be 0 or 1.

    Returns the keys of `table.METRICS`: `auc` and `gauc` as in `ranking`; `ne` is the normalized
    entropy of He et al. 2014, Practical Lessons from Predicting Clicks on Ads at Facebook, section 3; `ece` as in
    `probability.binned_calibration_error`. All but the counts are weighted. Raises ValueError on a value outside its
    range, in a row that has a label.
    """
    check_values(probabilities, labels, weights, soft=soft)
    codes = None if users is None else ranking.user_codes(users)
    return TaskRows.of(probabilities, labels, weights, codes, soft=soft).metrics()


def _defined(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else value


def check_values(p: np.ndarray, y: np.ndarray, w: np.ndarray, *, soft: bool, where: str = "") -> None:
    """Raises ValueError naming the first value `[n]` out of range, where there is a label, and its row."""
    unlabelled = np.isnan(y)
    in_range = (y >= 0) & (y <= 1) if soft else (y == 0) | (y == 1)
    wants = "0..1" if soft else "0 or 1 of a hard label"
    require(unlabelled | in_range, y, f"{where}label", f"{wants}, or NaN for none")
    require(unlabelled | ((p >= 0) & (p <= 1)), p, f"{where}probability", "0..1")
    require(unlabelled | (np.isfinite(w) & (w >= 0)), w, f"{where}weight", "a finite number >= 0")


def require(ok: np.ndarray, values: np.ndarray, what: str, expected: str) -> None:
    """Raises ValueError naming the first of the values `[n]` that is not `ok`."""
    if not ok.all():
        i = int(np.argmin(ok))
        raise ValueError(f"{what} of row {i} is {values[i]}; expected {expected}")
