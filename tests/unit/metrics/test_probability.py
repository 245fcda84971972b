"""The curves that pages draw, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn

from tt_jax.metrics import auc
from tt_jax.metrics.probability import CALIBRATION_BINS, ROC_POINTS, calibration_curve, roc_curve


@pytest.mark.parametrize("digits", [1, 6])
def test_the_roc_curve(digits: int) -> None:
    rng = np.random.default_rng(0)
    p, w = rng.random(500).astype(np.float32).round(digits), rng.uniform(0.5, 2, 500)
    y = (rng.random(500) < p).astype(np.float32)
    found = roc_curve(p, y, w)
    false, true, _ = sklearn.metrics.roc_curve(y, p, sample_weight=w, drop_intermediate=False)
    assert found is not None
    assert len(found.true_positive_rate) == min(ROC_POINTS, len(false))
    assert (found.false_positive_rate[[0, -1]] == (0, 1)).all()
    assert (found.true_positive_rate[-1]) == 1
    if digits == 1:
        assert found.true_positive_rate == pytest.approx(true)
        area = np.trapezoid(found.true_positive_rate, found.false_positive_rate)
        assert area == pytest.approx(auc(p, y, w))
    else:  # where a threshold passes positives only, the curve is vertical, and its upper end is taken
        assert found.true_positive_rate == pytest.approx(np.interp(found.false_positive_rate, false, true), abs=0.02)
    assert roc_curve(p, np.zeros_like(y), w) is None
    assert roc_curve(p[:0], y[:0], w[:0]) is None


def test_the_calibration_curve() -> None:
    rng = np.random.default_rng(1)
    p = rng.random(1000).astype(np.float32)
    y = (rng.random(1000) < p**2).astype(np.float32)
    found = calibration_curve(p, y, np.ones(1000))
    true, predicted = sklearn.calibration.calibration_curve(y, p, n_bins=CALIBRATION_BINS, strategy="quantile")
    assert found is not None
    assert found.label == pytest.approx(true, abs=0.02)
    assert found.prediction == pytest.approx(predicted, abs=0.02)
    assert found.weight.sum() == 1000
    pairs = np.tile([0.0, 1.0], CALIBRATION_BINS)  # each bin has one
    weighted = calibration_curve(np.arange(pairs.size) / 100, pairs, 1 + 2 * pairs)
    assert weighted is not None
    assert weighted.prediction[:2] == pytest.approx([0.0075, 0.0275])
    assert weighted.label == pytest.approx(np.full(CALIBRATION_BINS, 0.75))
    assert calibration_curve(p, y, np.zeros(1000)) is None
