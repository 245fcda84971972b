"""Gate diagnostics of a mixture of experts: what each task takes from each expert, as sums on the device.

Shapes: B rows, S scenarios, T tasks, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

DEAD = 0.1  # an expert is dead for a task below this share of an even load, 1 / E


class GateSums(NamedTuple):
    """Sums over rows, by scenario: a pytree that is merged by addition.

    Attributes:
      rows: float32 `[S]`, how many.
      gate: float32 `[S, T, E]`, of the gates.
      entropy: float32 `[S, T]`, of the entropies of a row's gates, in nats.
    """

    rows: jax.Array
    gate: jax.Array
    entropy: jax.Array


def batch_sums(gates_TEB: jax.Array, scenario_B: jax.Array, scenarios: int) -> GateSums:
    """The sums of a batch; a row whose scenario is -1 counts nothing."""
    of_row_BS = jax.nn.one_hot(scenario_B, scenarios, dtype=jnp.float32)
    entropy_TB = -jnp.sum(jax.scipy.special.xlogy(gates_TEB, gates_TEB), axis=1)
    return GateSums(
        rows=of_row_BS.sum(axis=0),
        gate=jnp.einsum("teb,bs->ste", gates_TEB, of_row_BS, precision="highest"),
        entropy=jnp.einsum("tb,bs->st", entropy_TB, of_row_BS, precision="highest"),
    )


def gate_metrics(rows: float, gate_TE: np.ndarray, entropy_T: np.ndarray, tasks: Sequence[str]) -> dict[str, Any]:
    """Diagnostics of the sums over some rows.

    Returns `rows`; `tasks`, task -> `load` (mean gate of each expert; sums to 1), `entropy` (mean entropy of a row's
    gates, as a share of the most there can be, ln E: 0 = one expert a row, 1 = all alike; None with one expert) and
    `dead` (experts of a load below `DEAD` / E); `dead`, those dead for every task; `similarity`, the cosine of the
    loads of two tasks, `[T][T]`. None without rows, where nothing is defined.
    """
    experts = gate_TE.shape[1]
    if not rows:
        return {"rows": 0, "tasks": None, "dead": None, "similarity": None}
    load_TE = gate_TE.astype(np.float64) / rows
    dead_TE = load_TE < DEAD / experts
    direction_TE = load_TE / np.linalg.norm(load_TE, axis=1, keepdims=True)
    entropy_T = entropy_T.astype(np.float64) / rows
    return {
        "rows": round(rows),
        "tasks": {
            task: {
                "load": load_TE[t].tolist(),
                "entropy": float(entropy_T[t]) / float(np.log(experts)) if experts > 1 else None,
                "dead": np.flatnonzero(dead_TE[t]).tolist(),
            }
            for t, task in enumerate(tasks)
        },
        "dead": np.flatnonzero(dead_TE.all(axis=0)).tolist(),
        "similarity": (direction_TE @ direction_TE.T).tolist(),
    }
