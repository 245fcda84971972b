"""What `tt-jax init` measures of a column: what it depends on, and what it alone knows of a label."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from input_pipeline.infer_schema.leaks import auc_alone
from input_pipeline.infer_schema.sampled_columns import Column


def test_one_feature_alone_against_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    bins, labels = rng.integers(0, 20, 4000), np.zeros(4000)
    labels[:] = rng.random(4000) < bins / 25
    labels[rng.random(4000) < 0.1] = np.nan
    known = ~np.isnan(labels)
    x, y = bins[known], labels[known]
    areas = []
    for fit, test in ((0, 1), (1, 0)):
        rates = np.array([y[fit::2][x[fit::2] == v].mean() for v in range(20)])
        areas.append(roc_auc_score(y[test::2], rates[x[test::2]]))
    assert auc_alone(bins, labels) == pytest.approx(np.mean(areas), abs=0.002)
    assert auc_alone(rng.integers(0, 20, 4000), labels) == pytest.approx(0.5, abs=0.05)
    assert auc_alone(np.arange(4000), labels) == 0.5  # an id of its own for every row knows nothing of another row
    assert auc_alone(bins[:30], labels[:30]) is None


def test_what_a_column_depends_on() -> None:
    rng = np.random.default_rng(4)
    group = rng.integers(0, 30, 2000)
    of_group, noise = rng.normal(size=30)[group], rng.normal(size=2000)
    for values, low, high in ((of_group, 0.999, 1.0), (noise, -0.1, 0.1), (of_group + 0.3 * noise, 0.7, 0.99)):
        found = Column("x", pa.array(values)).depends_on(group)
        assert found is not None
        assert low <= found <= high
    texts = Column("x", pa.array([f"t{g % 4}" for g in group]))
    assert texts.depends_on(group) == 1.0
    assert abs(texts.depends_on(rng.permutation(group)) or 1.0) < 0.1
    lists = Column("x", pa.array([[g, g + 1] for g in group]))
    assert (lists.depends_on(group), lists.distinct) == (1.0, 30)
    assert texts.depends_on(np.arange(2000)) is None
    large = Column("user_id", pa.array([2**60 + i for i in range(100)]))
    assert (large.distinct, large.is_whole) == (100, True)
