"""What a model predicts of the rows of a split, beside their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Predictions:
    """Every row of a split, in stored order: N rows, H heads, T tasks, K keys.

    Attributes:
      logits: float32 `[N, H]`, not calibrated.
      labels, weights: float32 `[N, T]`; a NaN label = none.
      scenario: int32 `[N]`, index into `Schema.scenarios`.
      query_scenario: int32 `[N]`, what `tt_jax.models.scenario.query_scenarios` says.
      keys: int64 `[N, K]`, see `Schema.key_columns`.
    """

    logits: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    scenario: np.ndarray
    query_scenario: np.ndarray
    keys: np.ndarray

    @staticmethod
    def of_batch(logits_BH: Any, query_scenario: np.ndarray, batch: dict[str, np.ndarray], rows: int) -> Predictions:
        """Those of the first `rows` of a batch; the rest is padding. `query_scenario`: int32 `[rows]`."""
        return Predictions(
            np.asarray(logits_BH)[:rows],
            batch["labels"][:rows],
            batch["weights"][:rows],
            batch["scenario"][:rows, 0],
            query_scenario,
            batch["keys"][:rows],
        )

    @staticmethod
    def join(parts: Sequence[Predictions]) -> Predictions:
        """The rows of all of them, in order."""
        return Predictions(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Predictions)))
