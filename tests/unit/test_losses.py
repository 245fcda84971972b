from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, xlog1py, xlogy
from sklearn.metrics import log_loss

from tt_jax.losses import cross_entropy, label_weight, masked_sum, training_loss


def batch(seed: int, rows: int = 64, tasks: int = 3, soft: bool = False):
    """Random logits, labels (a third of them NaN) and weights, float32 `[rows, tasks]`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (rows, tasks)).astype(np.float32)
    labels = rng.random((rows, tasks)).astype(np.float32)
    labels = labels if soft else (labels < 0.3).astype(np.float32)
    labels[rng.random((rows, tasks)) < 1 / 3] = np.nan
    weights = rng.exponential(1, (rows, tasks)).astype(np.float32)
    return logits, labels, weights


def reference_cross_entropy(logits, labels):
    """By the definition, in float64, through the probability."""
    p, y = expit(logits.astype(np.float64)), labels.astype(np.float64)
    return np.where(np.isnan(y), 0.0, -xlogy(y, p) - xlog1py(1 - y, -p))


def mean_loss(logits, labels, weights, task_weights):
    sums, denominators = masked_sum(cross_entropy(logits, labels), labels, weights)
    return training_loss(sums, denominators, task_weights)


@pytest.mark.parametrize("soft", [False, True])
def test_cross_entropy_is_its_definition_per_example(soft):
    logits, labels, _ = batch(0, soft=soft)
    got = cross_entropy(jnp.asarray(logits), jnp.asarray(labels))
    assert got.shape == logits.shape
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, reference_cross_entropy(logits, labels), rtol=2e-6, atol=1e-7)


def test_cross_entropy_keeps_small_and_large_losses():
    logits = jnp.array([[40.0, -40.0, 1e4, -1e4]], jnp.float32)
    np.testing.assert_allclose(
        cross_entropy(logits, jnp.array([[1.0, 0.0, 0.0, 1.0]], jnp.float32))[0],
        [np.exp(-40.0), np.exp(-40.0), 1e4, 1e4],
        rtol=1e-5,
    )


def test_gradient_is_probability_minus_label_and_zero_without_a_label():
    logits, labels, _ = batch(1, soft=True)
    logits[:4] = [[1e4, -1e4, 0.0]] * 4
    gradient = jax.grad(lambda z: cross_entropy(z, jnp.asarray(labels)).sum())(jnp.asarray(logits))
    expected = np.where(np.isnan(labels), 0.0, expit(logits.astype(np.float64)) - labels)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    assert np.all(np.asarray(gradient)[np.isnan(labels)] == 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_unlabelled_row_hides_even_a_non_finite_logit(bad):
    logits, labels, weights = batch(2)
    logits[np.isnan(labels)] = bad
    weights[np.isnan(labels)] = np.nan
    loss, gradient = jax.value_and_grad(mean_loss)(logits, labels, weights, np.ones(3, np.float32))
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()


def test_bfloat16_logits_give_a_float32_loss():
    logits, labels, _ = batch(3)
    low = jnp.asarray(logits, jnp.bfloat16)
    got = cross_entropy(low, jnp.asarray(labels))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, reference_cross_entropy(np.asarray(low, np.float32), labels), rtol=2e-6, atol=1e-7)


def test_masked_mean_is_the_weighted_log_loss_of_scikit_learn():
    logits, labels, weights = batch(4)
    y, w = jnp.asarray(labels), jnp.asarray(weights)
    sums, denominators = masked_sum(cross_entropy(jnp.asarray(logits), y), y, w)
    for t in range(3):
        seen = ~np.isnan(labels[:, t])
        expected = log_loss(labels[seen, t], expit(logits[seen, t].astype(np.float64)), sample_weight=weights[seen, t])
        assert float(sums[t] / denominators[t]) == pytest.approx(expected, rel=1e-5)


def test_chunks_add_up_to_the_batch_in_loss_and_gradient():
    logits, labels, weights = batch(5)
    task_weights = jnp.array([1.0, 0.5, 2.0], jnp.float32)
    denominators = label_weight(jnp.asarray(labels), jnp.asarray(weights))

    def chunk_loss(z, y, w):
        return training_loss(masked_sum(cross_entropy(z, y), y, w)[0], denominators, task_weights)

    whole, whole_gradient = jax.value_and_grad(mean_loss)(logits, labels, weights, task_weights)
    parts = [
        jax.value_and_grad(chunk_loss)(logits[i : i + 16], labels[i : i + 16], weights[i : i + 16])
        for i in range(0, 64, 16)
    ]
    assert sum(float(loss) for loss, _ in parts) == pytest.approx(float(whole), rel=1e-5)
    np.testing.assert_allclose(np.concatenate([g for _, g in parts]), whole_gradient, rtol=1e-5, atol=1e-8)


def test_a_task_without_a_label_adds_nothing():
    logits, labels, weights = batch(6)
    labels[:, 1] = np.nan
    task_weights = np.array([1.0, 7.0, 3.0], np.float32)
    loss, gradient = jax.value_and_grad(mean_loss)(logits, labels, weights, task_weights)
    others = [0, 2]
    expected = mean_loss(*(jnp.asarray(a[..., others]) for a in (logits, labels, weights, task_weights)))
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    assert np.all(np.asarray(gradient)[:, 1] == 0)


def test_training_loss_weighs_tasks():
    sums, denominators, task_weights = jnp.array([[4, 9, 0], [2, 3, 0], [1.0, 0.5, 5.0]], jnp.float32)
    loss, gradient = jax.value_and_grad(training_loss)(sums, denominators, task_weights)
    assert float(loss) == pytest.approx(1.0 * 2.0 + 0.5 * 3.0)
    np.testing.assert_allclose(gradient, [1 / 2, 0.5 / 3, 0], rtol=1e-6)


def test_the_gradient_of_a_soft_label_is_that_of_the_kl_divergence():
    logits, labels, _ = batch(7, soft=True)
    labels = np.nan_to_num(labels, nan=0.5)

    def kl(z):
        y = jnp.asarray(labels)
        return (y * (jnp.log(y) - jax.nn.log_sigmoid(z)) + (1 - y) * (jnp.log1p(-y) - jax.nn.log_sigmoid(-z))).sum()

    got = jax.grad(lambda z: cross_entropy(z, jnp.asarray(labels)).sum())(jnp.asarray(logits))
    np.testing.assert_allclose(got, jax.grad(kl)(jnp.asarray(logits)), atol=1e-6)


def test_labels_of_one_task_do_not_broadcast_over_all():
    with pytest.raises(ValueError, match=r"\(4, 2\) and \(4, 1\) differ"):
        cross_entropy(jnp.zeros((4, 2), jnp.float32), jnp.zeros((4, 1), jnp.float32))
    with pytest.raises(ValueError, match="differ"):
        masked_sum(jnp.zeros((4, 2), jnp.float32), jnp.zeros((4, 2), jnp.float32), jnp.zeros((4, 1), jnp.float32))
