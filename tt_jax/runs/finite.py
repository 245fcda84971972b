"""A run ends once what it learns is no longer a number; no such state is evaluated, or saved in place of a good one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from tt_jax.parallel.sharding import replicated

_SHOWN = 3  # names of a message


class DivergedError(ValueError):
    """The loss or the weights are no longer numbers."""


def diverged(step: int, names: Sequence[str], of: int, what: str) -> DivergedError:
    """The error of a step whose values of some `names`, of so many, are NaN or infinite."""
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return DivergedError(
        f"step {step}: what is learned is not a number any more, in {len(names)} of {of} {what} ({shown});"
        " a lower learning rate may help"
    )


def make_finite_check(mesh: Mesh) -> Callable[[Any], None]:
    """A function that raises `DivergedError` where a weight, an accumulator or a sum of a state is NaN or infinite.

    One pass over the state, on the devices; all processes come to the same answer.
    """
    find = jax.jit(lambda arrays: jnp.stack([jnp.isfinite(x).all() for x in arrays]), out_shardings=replicated(mesh))

    def check(state: Any) -> None:
        named = _floats(state)
        finite = np.asarray(find(list(named.values())))
        if not finite.all():
            bad = [name for name, ok in zip(named, finite, strict=True) if not ok]
            raise diverged(int(state.step), bad, len(named), "arrays")

    return check


def not_finite(state: Any) -> list[str]:
    """Names of the arrays of a tree with a NaN or an infinity, of what this process holds of them."""
    return [
        name
        for name, x in _floats(state).items()
        if not all(np.isfinite(np.asarray(shard.data)).all() for shard in x.addressable_shards)
    ]


def _floats(state: Any) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): x
        for path, x in jax.tree.leaves_with_path(state)
        if jnp.issubdtype(x.dtype, jnp.floating)
    }
