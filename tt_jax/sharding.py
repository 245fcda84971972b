"""Mesh and placement rules. The model knows none of it.

One mesh axis, `data`: a batch is split by rows. Dense parameters are replicated. A table `[rows, dim]` is split by
columns over the same devices where its width allows it: XLA then all-gathers the small ids and moves each value once;
split by rows it would all-reduce the whole `[B, slots, dim]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

DATA = "data"


def make_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """All devices, or the given ones, on the axis `data`."""
    found = jax.devices() if devices is None else devices
    return jax.make_mesh((len(found),), (DATA,), devices=found, axis_types=(jax.sharding.AxisType.Auto,))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over the devices."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def table_sharding(mesh: Mesh, dim: int) -> NamedSharding:
    """A table of that width: by columns, or replicated where the devices do not divide the width."""
    return NamedSharding(mesh, PartitionSpec(None, DATA)) if dim % mesh.size == 0 else replicated(mesh)


def state_shardings(mesh: Mesh, state: Any) -> Any:
    """A placement for every leaf of a `TrainState`: tables by `table_sharding`, the rest replicated."""
    placed = jax.tree.map(lambda _: replicated(mesh), state)
    return placed.replace(tables={name: table_sharding(mesh, table.shape[1]) for name, table in state.tables.items()})
