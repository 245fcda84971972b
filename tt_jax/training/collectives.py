"""What crosses devices in a training step: rows of the tables, their gradients, and sums over the batch.

`OneDevice` moves nothing. `ManyDevices` runs inside `jax.shard_map` over the mesh of `tt_jax.parallel.sharding`, every
device with its share of the batch and its part of each table, and names every collective. XLA's own partitioner is not
left to choose: it would be free to gather a table, or to reduce gradients once per chunk.

Shapes: b rows of data of a device, m ids that they look up in one table, M those of the whole batch, d columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import Mesh, PartitionSpec

from tt_jax.models.embedding import gather
from tt_jax.models.two_tower import Gathered, Params, TwoTower
from tt_jax.parallel.sharding import DEVICE, HOST, PLACEMENTS, batch_sharding
from tt_jax.schema import TOWERS, Tower
from tt_jax.training.optimizers import Table, start_rows, update_rows

Rows = Mapping[Tower, Gathered]
Tree = TypeVar("Tree")


class Exchange(Protocol):
    """How the devices of a step work together."""

    def total(self, tree: Tree) -> Tree:
        """Sums over all devices."""
        ...

    def key(self, key: Array) -> Array:
        """A random key of the device's own."""
        ...

    def everyones(self, ids: Array) -> Array:
        """The ids `[m]` of all devices, `[M]`, in any order."""
        ...

    def start(self, name: str, table: Table, rows_M: Array, like: int) -> Table:
        """The device's part of a table, once these rows of it (or past its end) are as another one, without history."""
        ...

    def look_up(self, tables: Params, rows: Rows) -> tuple[dict[Tower, Gathered], Params]:
        """Values `[b, slots, d]` of the device's rows, and for each table the rows int32 `[M]` of all devices."""
        ...

    def update(
        self, name: str, table: Table, rows_M: Array, gradients_md: Array, learning_rate: Array, decay: float
    ) -> Table:
        """The device's part of a table, updated with every device's gradients of the rows that it looked up."""
        ...


class OneDevice:
    """Nothing crosses."""

    def total(self, tree: Tree) -> Tree:
        return tree

    def key(self, key: Array) -> Array:
        return key

    def everyones(self, ids: Array) -> Array:
        return ids

    def start(self, name: str, table: Table, rows_M: Array, like: int) -> Table:
        return start_rows(table, rows_M, table.values[like])

    def look_up(self, tables: Params, rows: Rows) -> tuple[dict[Tower, Gathered], Params]:
        return {t: gather(tables, rows[t]) for t in TOWERS}, {name: _flat(rows, name) for name in _tables(rows)}

    def update(
        self, name: str, table: Table, rows_M: Array, gradients_md: Array, learning_rate: Array, decay: float
    ) -> Table:
        return update_rows(table, rows_M, gradients_md, learning_rate, decay)


ONE_DEVICE = OneDevice()


@dataclass(frozen=True)
class ManyDevices:
    """Inside a `shard_map`. `placements`: of `tt_jax.parallel.sharding.place_tables`; `sizes`: of the mesh axes."""

    placements: Mapping[str, str]
    sizes: Mapping[str, int]

    def total(self, tree: Tree) -> Tree:
        return lax.psum(tree, (HOST, DEVICE))

    def key(self, key: Array) -> Array:
        return jax.random.fold_in(key, lax.axis_index((HOST, DEVICE)))

    def everyones(self, ids: Array) -> Array:
        return self._gathered(ids, self._others(()))

    def start(self, name: str, table: Table, rows_M: Array, like: int) -> Table:
        by_rows, _ = self._split(name)
        place = self._local(jnp.int32(like), table.values, by_rows)
        value = table.values.at[place].get(mode="fill", fill_value=0.0)
        value = lax.psum(value, by_rows) if by_rows else value  # one part has it
        return start_rows(table, self._local(rows_M, table.values, by_rows), value)

    def look_up(self, tables: Params, rows: Rows) -> tuple[dict[Tower, Gathered], Params]:
        values: dict[Tower, Gathered] = {t: {} for t in TOWERS}
        everyones: Params = {}
        for name in _tables(rows):
            values_md, everyones[name] = self._look_up(name, tables[name], _flat(rows, name))
            first = 0
            for t in TOWERS:
                shape = rows[t][name].shape
                values[t][name] = values_md[first : first + shape[0] * shape[1]].reshape(*shape, -1)
                first += shape[0] * shape[1]
        return values, everyones

    def _look_up(self, name: str, part: Array, rows_m: Array) -> tuple[Array, Array]:
        """Values `[m, d]`, and the rows `[M]` of all devices."""
        by_rows, by_columns = self._split(name)
        wanted = self._gathered(rows_m, by_columns + by_rows)  # by all who need something from this part
        values = part.at[self._local(wanted, part, by_rows)].get(mode="fill", fill_value=0.0)
        for axis in by_rows:
            values = lax.psum_scatter(values, axis, scatter_dimension=0, tiled=True)
        for axis in by_columns:
            values = lax.all_to_all(values, axis, split_axis=0, concat_axis=1, tiled=True)
        return values, self._gathered(wanted, self._others(by_columns + by_rows))

    def update(
        self, name: str, table: Table, rows_M: Array, gradients_md: Array, learning_rate: Array, decay: float
    ) -> Table:
        by_rows, by_columns = self._split(name)
        gradients = gradients_md
        for axis in by_columns:
            gradients = lax.all_to_all(gradients, axis, split_axis=1, concat_axis=0, tiled=True)
        gradients = self._gathered(gradients, by_rows + self._others(by_columns + by_rows))
        rows = self._local(rows_M, table.values, by_rows)
        return update_rows(table, rows, gradients, learning_rate, decay, by_columns)

    def _split(self, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Mesh axes of more than one device that the rows and the columns of a table are split over."""
        rows, columns = (*PLACEMENTS[self.placements[name]], None, None)[:2]
        return self._large(rows), self._large(columns)

    def _large(self, axis: str | None) -> tuple[str, ...]:
        return (axis,) if axis and self.sizes[axis] > 1 else ()

    def _others(self, axes: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(axis for axis in (HOST, DEVICE) if axis not in axes and self.sizes[axis] > 1)

    def _gathered(self, x: Array, axes: tuple[str, ...]) -> Array:
        """Of all devices along the axes, the last axis slowest: one after another, so that ids and gradients that are
        gathered in several steps stand in the same order."""
        for axis in axes:
            x = lax.all_gather(x, axis, tiled=True)
        return x

    def _local(self, rows: Array, part: Array, by_rows: tuple[str, ...]) -> Array:
        """Rows of a table as rows of a device's part; its row count, one past its end, for those of other parts."""
        if not by_rows:
            return rows
        count = jnp.int32(part.shape[0])
        local = rows - lax.axis_index(by_rows) * count
        return jnp.where((local >= 0) & (local < count), local, count)


def _tables(rows: Rows) -> list[str]:
    return sorted(rows[TOWERS[0]])


def _flat(rows: Rows, table: str) -> Array:
    return jnp.concatenate([rows[t][table].reshape(-1) for t in TOWERS])


def shard_step(step: Callable[..., Any], mesh: Mesh, specs: Any) -> Callable[..., Any]:
    """A step made with `ManyDevices` as a function of whole arrays. `specs`: of the state."""
    batch = batch_sharding(mesh).spec
    # check_vma would have JAX insert sums of its own; every replicated output here is computed alike on all devices.
    return jax.shard_map(step, mesh=mesh, in_specs=(specs, batch), out_specs=(specs, PartitionSpec()), check_vma=False)


def shard_predict(model: TwoTower, mesh: Mesh, placements: Mapping[str, str]) -> Callable[..., Array]:
    """`model.predict` of whole arrays on tables that are split; batches of a multiple of the devices' number."""
    exchange, batch = ManyDevices(placements, mesh.shape), batch_sharding(mesh).spec

    def predict(params: Params, tables: Params, arrays: Mapping[str, Array]) -> Array:
        rows = model.rows(tables, arrays)
        return model.logits(params, model.inputs(params, exchange.look_up(tables, rows)[0], rows, arrays))

    tables = {name: PLACEMENTS[p] for name, p in placements.items()}
    tables |= dict.fromkeys(model.tables.key_shapes, PartitionSpec())
    return jax.shard_map(
        predict, mesh=mesh, in_specs=(PartitionSpec(), tables, batch), out_specs=batch, check_vma=False
    )
