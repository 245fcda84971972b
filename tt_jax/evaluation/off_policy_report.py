"""What a run's model would have earned on logged requests: off-policy estimates of every task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tt_jax.evaluation.predict import INPUT_ARRAYS
from tt_jax.features.columns import read_numbers
from tt_jax.features.encoder import Encoder
from tt_jax.metrics.off_policy import Candidates, OffPolicyError, best_of_each, doubly_robust, self_normalised_ips
from tt_jax.models.two_tower import Params, TwoTower
from tt_jax.utility import Utility


def off_policy_report(
    model: TwoTower, params: Params, tables: Params, utility: Utility, columns: Mapping[str, Any], best: int
) -> dict[str, Any]:
    """Estimates of the policy that chooses, of each request's candidates, the `best` of the highest utility.

    Args:
      model, params, tables: without calibration, which the doubly robust estimate does not need.
      utility: of tasks and the bid alone.
      columns: of a table of `tt-jax join --unserved`, equal lengths; `bid` may be absent, and is 1 then.
      best: ads that the policy chooses, at least 1.

    Returns `best`, `requests`, `left_out` (requests without all candidates, or that did not explore), and `tasks`:
    task -> estimator -> value, interval and more; of tasks with a head, no mask, and a column of their label.

    Raises `OffPolicyError` or `EncodeError` naming the row.
    """
    if best < 1:
        raise ValueError(f"expected at least one ad, got {best}")
    complete = np.asarray(columns["complete"].to_pylist(), bool)
    whole = {name: column.filter(columns["complete"]) for name, column in columns.items()}
    n, requests = int(complete.sum()), len(set(columns["request_id"].to_pylist()))
    if not n:
        raise OffPolicyError("no request has all its candidates in the table; see `tt-jax join --unserved`")
    arrays = Encoder(model.schema).encode(whole, outcomes=False).arrays
    logits = jax.jit(model.predict)(params, tables, {name: arrays[name] for name in INPUT_ARRAYS})
    logits_nH = np.asarray(logits, np.float64)
    probability = dict(zip(model.schema.heads, 1 / (1 + np.exp(-logits_nH)).T, strict=True))
    bid = read_numbers("bid", whole["bid"]) if "bid" in whole else np.ones(n)
    used = {name: jnp.asarray(probability[name], jnp.float32) for name in utility.names}
    score = np.broadcast_to(utility(used, jnp.asarray(bid, jnp.float32)), n)
    _, request = np.unique(np.array(whole["request_id"].to_pylist()), return_inverse=True)
    target, served = best_of_each(request, score, best), np.asarray(whole["served_slot"].is_valid())
    propensity, tasks = read_numbers("propensity", whole["propensity"]), {}
    for task in model.schema.tasks:
        if task.name in probability and not task.mask and task.label in whole:
            outcome = read_numbers(task.label, whole[task.label])
            outcome = np.where(served, np.nan_to_num(outcome), np.nan)  # of a served ad that nothing is told of: 0
            logged = Candidates(request, target, propensity, outcome, probability[task.name])
            estimates = {"ips": self_normalised_ips(logged), "dr": doubly_robust(logged)}
            tasks[task.name] = {name: asdict(estimate) for name, estimate in estimates.items()}
    if not tasks:
        raise OffPolicyError("the table has the label of no task with a head and without a mask")
    known = len(np.unique(request))
    return {"best": best, "requests": known, "left_out": requests - known, "tasks": tasks}
