"""Running sums of training, against scikit-learn."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import log_loss

from tt_jax.losses import cross_entropy
from tt_jax.metrics import streaming


def test_running_sums_give_loss_and_calibration_of_all_batches():
    rng = np.random.default_rng(7)
    logits = rng.normal(-1, 2, (96, 3)).astype(np.float32)
    labels = (rng.random((96, 3)) < 0.3).astype(np.float32)
    labels[rng.random((96, 3)) < 0.3] = np.nan
    labels[:, 2] = np.nan
    weights = rng.exponential(1, (96, 3)).astype(np.float32)

    @jax.jit
    def step(state, z, y, w):
        return streaming.update(state, cross_entropy(z, y), z, y, w)

    halves = []
    for start in (0, 48):
        state = streaming.zeros(3)
        for i in range(start, start + 48, 16):
            state = step(state, *(jnp.asarray(a[i : i + 16]) for a in (logits, labels, weights)))
        halves.append(state)
    got = streaming.compute(streaming.merge(*halves), ["click", "save", "teacher"])
    p = expit(logits.astype(np.float64))
    for t, task in enumerate(("click", "save")):
        r = ~np.isnan(labels[:, t])
        expected = log_loss(labels[r, t], p[r, t], sample_weight=weights[r, t])
        assert got[task]["loss"] == pytest.approx(expected, rel=1e-5)
        ratio = (weights[r, t] * p[r, t]).sum() / (weights[r, t] * labels[r, t]).sum()
        assert got[task]["calibration"] == pytest.approx(ratio, rel=1e-5)
    assert got["teacher"] == {"loss": None, "calibration": None}


def test_running_sums_can_be_donated():
    step = jax.jit(lambda a, b: streaming.merge(a, b), donate_argnums=0)
    one = streaming.TaskSums(*(jnp.ones(2, jnp.float32) for _ in range(4)))
    state = streaming.zeros(2)
    for _ in range(3):
        state = step(state, one)
    assert streaming.compute(state, ["a", "b"]) == {task: {"loss": 1.0, "calibration": 1.0} for task in "ab"}
