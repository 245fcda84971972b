"""Metrics of training as running sums on the device, fetched when they are logged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tt_jax.losses import masked_sum


class TaskSums(NamedTuple):
    """Weighted sums over the labelled rows of each task, float32 `[T]`: a pytree that is merged by addition.

    Start again from `zeros` after each log: float32 sums of millions of batches would lose their last digits.
    """

    loss_T: jax.Array
    weight_T: jax.Array
    label_T: jax.Array
    probability_T: jax.Array


def zeros(tasks: int) -> TaskSums:
    """The sums of no rows, of `tasks` tasks. Four buffers, so that the state can be donated."""
    return TaskSums(*(jnp.zeros(tasks, jnp.float32) for _ in TaskSums._fields))


def update(
    state: TaskSums, losses_BT: jax.Array, logits_BT: jax.Array, labels_BT: jax.Array, weights_BT: jax.Array
) -> TaskSums:
    """The state with one more batch, all `[B, T]`; losses as of `losses.cross_entropy`."""
    loss_T, weight_T = masked_sum(losses_BT, labels_BT, weights_BT)
    label_T, _ = masked_sum(labels_BT, labels_BT, weights_BT)
    probability_T, _ = masked_sum(jax.nn.sigmoid(logits_BT.astype(jnp.float32)), labels_BT, weights_BT)
    return merge(state, TaskSums(loss_T, weight_T, label_T, probability_T))


def merge(a: TaskSums, b: TaskSums) -> TaskSums:
    """The sums over the rows of both."""
    return jax.tree.map(jnp.add, a, b)


def compute(state: TaskSums, tasks: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Task -> `loss` (weighted mean) and `calibration` (sum p / sum y), None where undefined. Waits for the device."""
    of_tasks = zip(tasks, *(sums_T.tolist() for sums_T in jax.device_get(state)), strict=True)
    return {
        task: {"loss": _ratio(loss, weight), "calibration": _ratio(probability, label)}
        for task, loss, weight, label, probability in of_tasks
    }


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator > 0 else None
