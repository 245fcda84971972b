"""What encoded queries look like, counted: the same figures of training data and of served requests, side by side.

A value counts as *default* where the model sees what it sees for a missing value, as *unseen* where it is an id that
training never had in this feature (a hashed id may collide with a known one, and then does not count), and as *out of
range* where it is a number outside of the central 99.9 % of training. *Distance* is the Kolmogorov-Smirnov distance of
a number's two distributions, 0 to 1. All of it is of the values that the model gets, after
`tt_jax.features.encoder.encode`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tt_jax.features.encoder import Encoder
from tt_jax.metrics.experiment import binomial_interval
from tt_jax.metrics.ranking import ks_distance
from tt_jax.schema import PAD_ID, UNKNOWN_ID, Feature, Schema

RATES = ("missing", "default", "out_of_range", "unseen")
FIGURES = (*RATES, "distance")
_DYNAMIC_SEEN = 1 << 27  # flags that the keys of a dynamic feature share: of a million ids in 0.7 % another had it set
BINS = 4096  # between the two ends that a number is clipped to
CENTRAL = 0.999


class Profile:
    """Counts over encoded queries.

    Args:
      schema: of the queries.
      known: the profile of training, which says what is unseen; None = this is it.

    Attributes:
      rows: queries.
      missing: feature -> queries in which it is missing, where that was told.
      default: feature -> queries that are encoded as if it were missing.
      ids, unseen: feature -> its other ids, and those of them that training never had.
      seen: feature -> bool `[rows of its table]`, or of the keys that dynamic ids are hashed to.
      histogram: number -> int64 `[BINS]`, of the values that are not default.
    """

    def __init__(self, schema: Schema, known: Profile | None = None) -> None:
        self.schema, self._known = schema, known
        blank = Encoder(schema).encode_queries([{}]).arrays
        self._blank = {"ids": blank["query_ids"][0], "floats": blank["query_floats"][0]}
        features = schema.tower_features("query")
        self.rows = 0
        self.missing = dict.fromkeys((f.name for f in features), 0)
        self.default = dict(self.missing)
        self.ids = {f.name: 0 for f in features if f.is_ids}
        self.unseen = dict(self.ids)
        self.seen = {f.name: np.zeros(_flags(schema.table_owner(f)), bool) for f in features if f.is_ids}
        self.histogram = {f.name: np.zeros(BINS, np.int64) for f in features if f.kind == "numeric"}

    def add(self, ids: np.ndarray, floats: np.ndarray, missing: Mapping[str, int] | None = None) -> None:
        """Adds n queries: int32 `[n, S]`, float32 `[n, F]` as `encode` gives them, and in how many each is missing."""
        layout = self.schema.layout["query"]
        self.rows += len(ids)
        for name, count in (missing or {}).items():
            self.missing[name] += count
        for name, first, last in layout.ids:
            values = ids[:, first:last]
            default = (values == self._blank["ids"][first:last]).all(axis=1)
            self.default[name] += int(default.sum())
            self._add_ids(name, values[~default])
        for name, first, last in layout.floats:
            values = floats[:, first:last]
            default = (values == self._blank["floats"][first:last]).all(axis=1)
            self.default[name] += int(default.sum())
            if name in self.histogram:
                at = self._bins(name, values[~default, 0])
                self.histogram[name] += np.bincount(at, minlength=BINS)

    def _add_ids(self, name: str, values: np.ndarray) -> None:
        found = values[values != PAD_ID]
        seen, owner = (self._known or self).seen[name], self.schema.table_owner(self.schema.feature(name))
        flag = found % len(seen)
        self.seen[name][flag] = True
        unseen = ~seen[flag]
        if owner.vocabulary and not owner.hash_size:
            unseen |= found == UNKNOWN_ID
        self.ids[name] += found.size
        self.unseen[name] += int(unseen.sum())

    def _bins(self, name: str, values: np.ndarray) -> np.ndarray:
        clip = self.schema.feature(name).clip
        return np.clip((values.astype(np.float64) + clip) * (BINS / (2 * clip)), 0, BINS - 1).astype(np.int64)

    def rates(self) -> dict[str, dict[str, tuple[int, int] | None]]:
        """Feature -> each of `RATES` as (how many, of how many); None where it has no meaning for the feature."""
        training = self._known or self
        found: dict[str, dict[str, tuple[int, int] | None]] = {}
        for f in self.schema.tower_features("query"):
            outside = unseen = None
            if f.is_ids:
                unseen = self.unseen[f.name], self.ids[f.name]
            if f.name in self.histogram:
                counts, (low, high) = self.histogram[f.name], _central(training.histogram[f.name])
                total = int(counts.sum())
                outside = total - int(counts[low : high + 1].sum()), total
            missing, default = (self.missing[f.name], self.rows), (self.default[f.name], self.rows)
            found[f.name] = dict(zip(RATES, (missing, default, outside, unseen), strict=True))
        return found


def compare_profiles(training: Profile, held_out: Profile, serving: Profile) -> dict[str, dict[str, Any]]:
    """Feature -> figure -> `training` and `serving` (rates), `difference`, and its 95 % interval `low`, `high`.

    The rates of training are its own but for `unseen`, which is that of data that it was not trained on: new ids come
    up every day. The interval knows of the requests' number only. `distance` has a `difference` alone. A figure that
    has no meaning for a feature, or no value on a side, is left out.
    """
    of_training, of_held_out, of_serving = training.rates(), held_out.rates(), serving.rates()
    found: dict[str, dict[str, Any]] = {}
    for name, rates in of_serving.items():
        figures: dict[str, Any] = {}
        for figure, served in rates.items():
            before = (of_held_out if figure == "unseen" else of_training)[name][figure]
            if served and before and served[1] and before[1]:
                figures[figure] = _difference(before[0] / before[1], *served)
        if name in training.histogram:
            distance = ks_distance(training.histogram[name], serving.histogram[name])
            figures |= {} if distance is None else {"distance": {"difference": distance}}
        found[name] = figures
    return found


def _flags(owner: Feature) -> int:
    return _DYNAMIC_SEEN if owner.dynamic_rows else owner.rows


def _difference(training: float, count: int, total: int) -> dict[str, float]:
    """With Wilson's interval of the served rate, which keeps its width at 0 and 1."""
    rate, interval = count / total, binomial_interval(count, total)
    low, high = (end - training for end in interval)
    return {"training": training, "serving": rate, "difference": rate - training, "low": low, "high": high}


def _central(counts: np.ndarray) -> tuple[int, int]:
    """First and last bin of the central values; all bins where there are no values."""
    total = int(counts.sum())
    if not total:
        return 0, BINS - 1
    below, tail = np.cumsum(counts), total * (1 - CENTRAL) / 2
    return int(np.searchsorted(below, tail, side="right")), int(np.searchsorted(below, total - tail, side="left"))
