"""Losses: per-example cross-entropy, and the one place that applies label masks, row weights and task weights.

Shapes: B rows of a batch, T tasks. A label is a probability in [0, 1], hard (0 or 1) or soft (a teacher's score); NaN
means that the row has no label for that task, so it adds nothing to the loss, its gradient or its denominator.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def cross_entropy(logits_BT: jax.Array, labels_BT: jax.Array) -> jax.Array:
    """Cross-entropy of sigmoid(logit) with a hard or soft label, in nats, float32 `[B, T]`; 0 where there is no label.

    `-y ln s(z) - (1 - y) ln s(-z)`. Of a soft label it is KL(teacher || model) plus the teacher's entropy, which no
    gradient sees. Each product is kept apart: `softplus(z) - y z` would cancel to 0 for confident, right predictions.
    Raises ValueError if the shapes differ.
    """
    _check_shapes(logits_BT, labels_BT)
    labelled_BT = ~jnp.isnan(labels_BT)
    # Both inputs are replaced before the arithmetic: masking the result alone leaves 0 * NaN = NaN in the gradient.
    z = jnp.where(labelled_BT, logits_BT, 0.0).astype(jnp.float32)
    y = jnp.where(labelled_BT, labels_BT, 0.0).astype(jnp.float32)
    return jnp.where(labelled_BT, y * jax.nn.softplus(-z) + (1.0 - y) * jax.nn.softplus(z), 0.0)


def label_weight(labels_BT: jax.Array, weights_BT: jax.Array) -> jax.Array:
    """Summed weight of the labelled rows of each task, float32 `[T]`: the denominator of a weighted mean."""
    _check_shapes(labels_BT, weights_BT)
    return jnp.where(jnp.isnan(labels_BT), 0.0, weights_BT).astype(jnp.float32).sum(axis=0)


def masked_sum(values_BT: jax.Array, labels_BT: jax.Array, weights_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Weighted sum of per-example values over labelled rows, and the weight summed: float32 `[T]` each.

    Mergeable: the sums over the chunks of a batch add up to those of the batch. Raises ValueError if the shapes differ.
    """
    _check_shapes(values_BT, labels_BT)
    weight_T = label_weight(labels_BT, weights_BT)
    labelled_BT = ~jnp.isnan(labels_BT)
    values = jnp.where(labelled_BT, values_BT, 0.0).astype(jnp.float32)
    weights = jnp.where(labelled_BT, weights_BT, 0.0).astype(jnp.float32)
    return (values * weights).sum(axis=0), weight_T


def training_loss(sum_T: jax.Array, denominator_T: jax.Array, task_weight_T: jax.Array) -> jax.Array:
    """The scalar that training minimises: `sum over t of task_weight_t * sum_t / denominator_t`, float32.

    A task whose denominator is 0 (no labelled row) adds 0. Linear in `sum_T`: with the `label_weight` of the whole
    batch as the denominator, losses and gradients of its chunks add up to those of the batch.
    """
    present_T = denominator_T > 0
    mean_T = jnp.where(present_T, sum_T / jnp.where(present_T, denominator_T, 1.0), 0.0)
    return (task_weight_T * mean_T).sum()


def _check_shapes(a: jax.Array, b: jax.Array) -> None:
    """Refuses what would broadcast: a `[B, 1]` label against `[B, T]` logits trains every task on one label."""
    if a.shape != b.shape:
        raise ValueError(f"shapes {a.shape} and {b.shape} differ; expected [rows, tasks] of both")
