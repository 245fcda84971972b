"""What a model is ranked by against its teacher: the rows of a split that `tt_jax.metrics.funnel` is of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tt_jax.metrics.funnel import FunnelSums, funnel_metrics, funnel_sums
from tt_jax.metrics.rows import EvalRows
from tt_jax.schema import Schema
from tt_jax.utility import Utility


@dataclass(frozen=True)
class Funnel:
    """N rows of a split with a teacher, whose probabilities are the soft labels.

    Attributes:
      schema: of the rows.
      utility: that both are ranked by, of probabilities and a bid of 1: a prepared set has no bids.
      teacher: float32 `[N]`, utility that the teacher gives; NaN where it has no label.
      requests: int64 `[N]`.
    """

    schema: Schema
    utility: Utility
    teacher: np.ndarray
    requests: np.ndarray

    @staticmethod
    def of(rows: EvalRows, expression: str) -> Funnel | None:
        """The funnel of rows; None if they have no teacher, or no requests.

        `expression`: the utility, "" = the first head. If the teacher has not labelled all that it needs, it is the
        first head that the teacher has labelled.
        """
        schema, labels, requests = rows.schema, rows.labels, rows.requests
        teachers = {schema.heads[h]: t for t, h in enumerate(schema.head_of_task) if schema.tasks[t].kind == "soft"}
        labelled = {head: t for head, t in teachers.items() if not np.isnan(labels[:, t]).all()}
        if not labelled or requests is None:
            return None
        utility = Utility.parse(expression or schema.heads[0], schema.heads)
        if not utility.names or not labelled.keys() >= set(utility.names):
            utility = Utility.parse(next(iter(labelled)), schema.heads)
        teacher = _value(utility, {h: labels[:, labelled[h]] for h in utility.names})
        return Funnel(schema, utility, np.where(np.isfinite(teacher), teacher, np.nan), requests)

    def metrics(self, rows: EvalRows, part: np.ndarray, replicates: int = 0) -> dict[str, Any]:
        """`funnel_metrics` of some of the rows, by a mask bool `[N]`, for any predictions of them."""
        return funnel_metrics(*self._ranked(rows, part), replicates=replicates)

    def sums(self, rows: EvalRows, part: np.ndarray, best: Sequence[int], passed: Sequence[int]) -> FunnelSums:
        """`funnel_sums` of some of the rows, by a mask bool `[N]`, for any predictions of them."""
        return funnel_sums(*self._ranked(rows, part), best, passed)

    def _ranked(self, rows: EvalRows, part: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        heads = {h: rows.probabilities[:, self.schema.heads.index(h)] for h in self.utility.names}
        return _value(self.utility, heads)[part], self.teacher[part], self.requests[part]


def _value(utility: Utility, probabilities: dict[str, np.ndarray]) -> np.ndarray:
    found = utility({h: jnp.asarray(p) for h, p in probabilities.items()}, jnp.ones((), jnp.float32))
    return np.asarray(jax.device_get(found))
