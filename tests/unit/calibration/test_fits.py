"""The fits of calibration against scikit-learn and closed forms, and the map in JAX against NumPy."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from tt_jax.calibration import fits
from tt_jax.calibration.maps import MAX_KNOTS, Curve, Curves


def rows(seed: int, n: int = 4000, soft: bool = False, levels: int = 0):
    """Logits that are twice too wide and one too high; labels of the true ones; weights."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(-1, 1, n)
    y = 1 / (1 + np.exp(-truth))
    y = y if soft else (rng.random(n) < y).astype(np.float64)
    z = 2 * truth + 1
    z = np.round(z * levels) / levels if levels else z
    return z.astype(np.float32), y.astype(np.float32), rng.exponential(1, n).astype(np.float32)


def loss(z, y, w):
    return float(np.average(np.logaddexp(0, z) - y * z, weights=w))


def test_platt_and_temperature_are_those_of_scikit_learn():
    z, y, w = (a.astype(np.float64) for a in rows(0))
    found = fits.fit_platt(z, y, w)
    sk = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(z[:, None], y, sample_weight=w)
    assert found == pytest.approx((sk.coef_[0, 0], sk.intercept_[0]), abs=1e-4)
    assert found.scale == pytest.approx(0.5, abs=0.05)
    found = fits.fit_temperature(z, y, w)
    sk = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000, fit_intercept=False)
    assert found == (pytest.approx(sk.fit(z[:, None], y, sample_weight=w).coef_[0, 0], abs=1e-4), 0)


def test_soft_labels_are_fitted_as_both_hard_ones_with_their_shares():
    z, y, w = rows(1, soft=True)
    assert fits.fit_platt(z, y, w) == pytest.approx((0.5, -0.5), abs=1e-3)  # the true map, without noise
    both = (np.concatenate([z, z]), np.repeat([1.0, 0.0], z.size), np.concatenate([w * y, w * (1 - y)]))
    assert fits.fit_platt(*both) == pytest.approx(fits.fit_platt(z, y, w), abs=1e-6)
    soft, hard = fits.fit_isotonic(z, y, w), fits.fit_isotonic(*both)
    inside = np.linspace(*np.quantile(z, [0.02, 0.98]), 100)
    np.testing.assert_allclose(fits.interpolate(inside, *soft), fits.interpolate(inside, *hard), atol=0.05)


def test_separable_labels_have_a_finite_fit():
    z = np.linspace(-2, 2, 100, dtype=np.float32)
    scale, shift = fits.fit_platt(z, (z > 0).astype(np.float32), np.ones(100, np.float32))
    assert 1 < scale < 1000
    assert abs(shift) < 1


def test_pooled_adjacent_violators_are_isotonic_regression():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        mean, weight = rng.random(50).round(1) + np.arange(50) / 100, rng.exponential(1, 50)
        block = fits.pool_adjacent(mean, weight)
        found = (np.bincount(block, mean * weight) / np.bincount(block, weight))[block]
        expected = IsotonicRegression().fit(np.arange(50), mean, sample_weight=weight).predict(np.arange(50))
        np.testing.assert_allclose(found, expected, atol=1e-12)
        assert (np.diff(np.unique(found)) > 0).all()


@pytest.mark.parametrize("levels", [0, 2])
def test_an_isotonic_map_rises_is_small_and_calibrates(levels):
    z, y, w = rows(2, n=20_000, levels=levels)
    knots, values = fits.fit_isotonic(z, y, w)
    assert 2 < knots.size == values.size <= MAX_KNOTS
    assert (np.diff(knots) > 0).all()
    assert (np.diff(values) > 0).all()
    after = fits.interpolate(z.astype(np.float64), knots, values)
    assert np.average(1 / (1 + np.exp(-after)), weights=w) == pytest.approx(np.average(y, weights=w), rel=1e-6)
    truth = (z.astype(np.float64) - 1) / 2
    assert loss(truth, y, w) - 0.003 < loss(after, y, w) < loss(truth, y, w) + 0.001 < loss(z.astype(np.float64), y, w)
    order = np.argsort(z)
    assert (np.diff(after[order])[np.diff(z[order]) > 0] > 0).all()


def test_one_class_at_an_end_is_pooled_with_its_neighbour():
    z = np.arange(1000, dtype=np.float32)
    y = ((z > 400) & (np.arange(1000) % 2 > 0) | (z > 900)).astype(np.float32)
    knots, values = fits.fit_isotonic(z, y, np.ones(1000, np.float32))
    assert np.isfinite(values).all()
    assert knots.size >= 1


@pytest.mark.parametrize("count", [1, 2, 5, MAX_KNOTS])
def test_the_map_in_jax_is_that_of_numpy(count):
    rng = np.random.default_rng(count)
    knots, values = (np.sort(rng.normal(0, 3, count)).astype(np.float32) for _ in range(2))
    curve = Curve(knots=tuple(knots.tolist()), values=tuple(values.tolist()))
    curves = Curves.of([[curve, Curve()], [Curve(2.0, 0.5), curve]])
    z = np.concatenate([rng.normal(0, 5, 200), knots]).astype(np.float32)
    both = np.stack([z, z], axis=1)
    expected = fits.interpolate(z.astype(np.float64), knots.astype(np.float64), values.astype(np.float64))
    zero, one = (np.asarray(curves.at(jnp.full(z.size, s, jnp.int32)).apply(jnp.asarray(both))) for s in (0, 1))
    np.testing.assert_allclose(zero[:, 0], expected, atol=2e-4)
    np.testing.assert_allclose(zero[:, 1], z, atol=1e-5)
    np.testing.assert_allclose(one[:, 0], 2 * z + 0.5, atol=1e-5)
    np.testing.assert_allclose(one[:, 1], expected, atol=2e-4)
