"""The rows of a task, sorted by prediction once: every metric, of all rows or some, under any number of weightings.

A weighting says how often a row counts: once in a report, as often as its cluster was drawn in a bootstrap. What is a
ratio of weighted sums is computed from the sums; AUC and GAUC, which depend on the order of rows, from the rows. ECE is
of a report only.

Shapes: n labelled rows, R weightings, S sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tt_jax.metrics import probability, ranking

Metrics = dict[str, int | float | None]

# What reports say of their metrics. All but the counts are weighted by the rows' weights.
DEFINITIONS = {
    "rows": "rows with a label of the task; the metrics of a line are of these rows",
    "positives": "sum of their labels",
    "gauc_rows": "rows of users with both labels, which gauc is of",
    "auc": "chance that a positive row outscores a negative one; a tie counts one half",
    "gauc": "mean of per-user AUC over users with both labels, weighted by impressions",
    "logloss": "mean cross-entropy, in nats",
    "ne": "log loss / log loss of the best constant (normalized entropy)",
    "calibration": "sum p / sum y",
    "ece": "mean over 20 bins of equal weight by p of abs(mean p - mean y); noise makes it larger; it has no interval",
    "kl": "log loss - entropy of the teacher's labels, in nats",
    "logmae": "mean abs(ln p - ln teacher)",
}
COUNTS = ("rows", "positives", "gauc_rows")
METRICS = tuple(DEFINITIONS)


@dataclass(frozen=True)
class TaskRows:
    """Labelled rows in the order of their predictions, those that tie in the order given.

    Attributes:
      row: int64 `[n]`, which of the rows given.
      p, y: predictions and labels `[n]`.
      terms_Sn: float64, what is summed: weight, and weighted label, prediction and loss; of soft labels also the
        weighted entropy of the label and |ln p - ln label|.
      users: int64 `[n]`, of `ranking.user_codes`; None if the logs have no user.
      soft: whether the labels are a teacher's probabilities.
    """

    row: np.ndarray
    p: np.ndarray
    y: np.ndarray
    terms_Sn: np.ndarray
    users: np.ndarray | None
    soft: bool

    @staticmethod
    def of(p: np.ndarray, y: np.ndarray, w: np.ndarray, users: np.ndarray | None, *, soft: bool) -> TaskRows:
        """Arguments as of `tt_jax.metrics.task_metrics`, `users` as here. Not checked: see `check_values`."""
        row = np.flatnonzero(~np.isnan(y))
        row = row[ranking.ascending(p[row])]
        p, y = p[row], y[row]
        p64, y64 = p.astype(np.float64), y.astype(np.float64)
        terms = [np.ones(row.size), y64, p64, probability.row_losses(p64, y64)]
        if soft:
            terms += [probability.binary_entropy(y64), probability.row_log_errors(p64, y64)]
        return TaskRows(row, p, y, np.stack(terms) * w[row], None if users is None else users[row], soft)

    def part(self, chosen: np.ndarray) -> TaskRows:
        """Those of the rows given that are `chosen`, bool `[rows given]`; still sorted."""
        kept = np.flatnonzero(chosen[self.row])
        users = None if self.users is None else self.users[kept]
        terms_Sn = self.terms_Sn.take(kept, axis=1)
        return TaskRows(self.row[kept], self.p[kept], self.y[kept], terms_Sn, users, self.soft)

    def metrics(self) -> Metrics:
        """The report of `tt_jax.metrics.task_metrics`."""
        positives = float(self.y.sum(dtype=np.float64))
        counts: Metrics = {
            "rows": self.row.size,
            "positives": positives if self.soft else int(positives),
            "gauc_rows": self._grouped_rows(),
        }
        ratios = {name: float(values[0]) for name, values in self.ratios(self.terms_Sn.sum(axis=1)[None]).items()}
        found = {**ratios, **self.ordered(), "ece": self._calibration_error()}
        return {name: counts[name] if name in counts else _defined(found[name]) for name in METRICS}

    def ratios(self, sums_RS: np.ndarray) -> dict[str, np.ndarray]:
        """Metrics `[R]` that are ratios of the sums of the terms; NaN where one is undefined."""
        weight, label, prediction, loss, *soft = sums_RS.T
        undefined = np.full(weight.size, np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            mean_loss, constant = loss / weight, probability.binary_entropy(label / weight)
            return {
                "logloss": mean_loss,
                "ne": np.where(constant > 0, mean_loss / constant, np.nan),
                "calibration": np.where(label > 0, prediction / label, np.nan),
                # Rounding alone takes a KL below 0.
                "kl": np.maximum(0.0, (loss - soft[0]) / weight) if soft else undefined,
                "logmae": soft[1] / weight if soft else undefined,
            }

    def ordered(self, times: np.ndarray | None = None) -> dict[str, float | None]:
        """AUC and GAUC, None where one is undefined. `times`: float64 `[n]`, how often each row counts."""
        terms = self.terms_Sn[:2] if times is None else self.terms_Sn[:2] * times
        found: dict[str, float | None] = dict.fromkeys(("auc", "gauc"))
        if self.ranked:
            weight, label = ranking.running(terms, self._ties)
            found["auc"] = ranking.area(label, weight - label)
        if self.ranked and self._by_user is not None:
            order, ties, user_bounds = self._by_user
            won, lost = terms[1], terms[0] - terms[1]
            found["gauc"] = ranking.grouped_area(
                ranking.running(won[order], ties), ranking.running(lost[order], ties), user_bounds
            )
        return found

    def _grouped_rows(self) -> int | None:
        if not self.ranked or self._by_user is None:
            return None
        order, ties, user_bounds = self._by_user
        won, lost = self.terms_Sn[1][order], (self.terms_Sn[0] - self.terms_Sn[1])[order]
        return ranking.grouped_rows(ranking.running(won, ties), ranking.running(lost, ties), ties, user_bounds)

    def _calibration_error(self) -> float | None:
        weight, label, prediction = ranking.running(self.terms_Sn[:3], self._ties)
        return probability.binned_calibration_error(weight, prediction - label) if weight[-1] > 0 else None

    @cached_property
    def ranked(self) -> bool:
        """Whether the labels have two classes, so that rows can be ranked rightly or wrongly."""
        return not self.soft or bool(((self.y == 0) | (self.y == 1)).all())

    @cached_property
    def _ties(self) -> np.ndarray:
        return ranking.tie_bounds(self.p)

    @cached_property
    def _by_user(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """The order of `ranking.by_user`, and its `ranking.user_ties`."""
        if self.users is None:
            return None
        order = ranking.by_user(self.users)
        return order, *ranking.user_ties(self.p[order], self.users[order])


def _defined(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else value


def check_values(
    p: np.ndarray, y: np.ndarray, w: np.ndarray, *, soft: bool, where: str = "", first_row: int = 0
) -> None:
    """Raises ValueError naming the first value `[n]` out of range, where there is a label; its row from `first_row`."""
    unlabelled = np.isnan(y)
    in_range = (y >= 0) & (y <= 1) if soft else (y == 0) | (y == 1)
    wants = "0..1" if soft else "0 or 1 of a hard label"
    require(unlabelled | in_range, y, f"{where}label", f"{wants}, or NaN for none", first_row)
    require(unlabelled | ((p >= 0) & (p <= 1)), p, f"{where}probability", "0..1", first_row)
    require(unlabelled | (np.isfinite(w) & (w >= 0)), w, f"{where}weight", "a finite number >= 0", first_row)


def require(ok: np.ndarray, values: np.ndarray, what: str, expected: str, first_row: int) -> None:
    """Raises ValueError naming the first of the values `[n]` that is not `ok`."""
    if not ok.all():
        i = int(np.argmin(ok))
        raise ValueError(f"{what} of row {first_row + i} is {values[i]}; expected {expected}")
