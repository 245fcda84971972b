"""Fused embedding tables: which row of which table each id slot reads, and how slots become a tower's input.

Features of equal width share one table `[rows, dim]`; each owner of rows has an offset in it. One gather per table and
tower reads everything. Tables are kept outside the model's parameters, because training differentiates with respect to
the *gathered rows*, never the table (`tt_jax.training.optimizers`).

Shapes: B rows of data, S id slots of a tower, F its float columns, L slots of one feature.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax

from tt_jax.models.dynamic import find_rows, keys_name, keys_shape
from tt_jax.schema import MAX_TABLE_ROWS, TOWERS, Feature, Schema, SchemaError, Tower

_DRAWN_ROWS = 1 << 19


@dataclass(frozen=True)
class Group:
    """The id slots of one tower that read one table.

    Attributes:
      table: name of the table.
      columns: columns of the tower's id matrix, ascending.
      offsets: int32, for each of these columns the first row of its feature in the table.
      hashed: bool, whether the column is of a hashed or dynamic table, whose ids `id_dropout` hides.
    """

    table: str
    columns: tuple[int, ...]
    offsets: np.ndarray
    hashed: np.ndarray


@dataclass(frozen=True)
class Tables:
    """The fused tables of a schema. Beside them, among what is called `tables` in a model's functions, lie the keys of
    its dynamic features, see `tt_jax.models.dynamic`."""

    schema: Schema

    @cached_property
    def _placement(self) -> tuple[dict[str, tuple[int, int]], dict[str, tuple[str, int]]]:
        """table -> (rows, dim), and owning feature -> (table, first row)."""
        shapes: dict[str, tuple[int, int]] = {}
        offsets: dict[str, tuple[str, int]] = {}
        for f in self.schema.features:
            if f.is_ids and not f.shares:
                table = f"dim{f.dim}"
                first = shapes.get(table, (0, f.dim))[0]
                offsets[f.name], shapes[table] = (table, first), (first + f.rows, f.dim)
        for table, (rows, _) in shapes.items():
            if rows >= MAX_TABLE_ROWS:
                raise SchemaError(f"table {table!r} has {rows} rows in all, more than int32 ids can name")
        return shapes, offsets

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Table name -> (rows, dim)."""
        return self._placement[0]

    @cached_property
    def dynamic(self) -> tuple[Feature, ...]:
        """The features that own dynamic rows."""
        return tuple(f for f in self.schema.features if f.dynamic_rows)

    @property
    def key_shapes(self) -> dict[str, tuple[int, int]]:
        """Name of int32 keys -> their shape."""
        return {keys_name(f.name): keys_shape(f) for f in self.dynamic}

    def place(self, owner: Feature) -> tuple[str, int]:
        """Table and first row of a feature with rows of its own."""
        return self._placement[1][owner.name]

    def columns(self, owner: Feature, tower: Tower) -> np.ndarray:
        """Columns, int32, of the tower's ids that look up the rows of this feature."""
        layout = self.schema.layout[tower].ids
        found = [range(a, b) for name, a, b in layout if self.schema.table_owner(self.schema.feature(name)) == owner]
        return np.array([column for columns in found for column in columns], np.int32)

    @cached_property
    def groups(self) -> dict[Tower, tuple[Group, ...]]:
        """Per tower, which columns read which table."""
        return {tower: tuple(self._group(tower, table) for table in self.shapes) for tower in TOWERS}

    def _group(self, tower: Tower, table: str) -> Group:
        columns, offsets, hashed = [], [], []
        for name, first, last in self.schema.layout[tower].ids:
            owner = self.schema.table_owner(self.schema.feature(name))
            at, offset = self._placement[1][owner.name]
            if at == table:
                columns += range(first, last)
                offsets += [offset] * (last - first)
                hashed += [owner.hash_size + owner.dynamic_rows > 0] * (last - first)
        return Group(table, tuple(columns), np.array(offsets, np.int32), np.array(hashed, bool))

    def init(self, key: Array, std: float) -> dict[str, Array]:
        """Fresh tables, float32 `[rows, dim]` from N(0, std^2), and keys of no id."""
        keys = jax.random.split(key, max(1, len(self.shapes)))
        tables = {name: _draw(k, shape, std) for (name, shape), k in zip(self.shapes.items(), keys, strict=False)}
        return {**tables, **{name: jnp.zeros(shape, jnp.int32) for name, shape in self.key_shapes.items()}}

    def rows(
        self,
        tower: Tower,
        tables: Mapping[str, Array],
        ids_BS: Array,
        dropout: float = 0.0,
        dropout_key: Array | None = None,
    ) -> dict[str, Array]:
        """Ids of a tower as they are encoded -> rows of each table, int32 `[B, slots]`. An empty slot becomes the
        table's row count, one past its end: it gathers zeros and is dropped by a scatter. So does a hashed id hidden by
        dropout. Of `tables` the keys are read."""
        found = {}
        for owner in self.dynamic:
            columns = self.columns(owner, tower)
            if columns.size:
                found_rows = find_rows(tables[keys_name(owner.name)], ids_BS[:, columns])
                ids_BS = jnp.asarray(ids_BS).at[:, columns].set(found_rows)
        for i, group in enumerate(self.groups[tower]):
            ids = ids_BS[:, np.array(group.columns, np.int32)] if group.columns else ids_BS[:, :0]
            present = ids >= 0
            if dropout_key is not None and dropout and group.hashed.any():
                hidden = jax.random.bernoulli(jax.random.fold_in(dropout_key, i), dropout, ids.shape)
                present &= ~(hidden & group.hashed)
            found[group.table] = jnp.where(present, ids + group.offsets, jnp.int32(self.shapes[group.table][0]))
        return found


@functools.partial(jax.jit, static_argnums=(1, 2))
def _draw(key: Array, shape: tuple[int, int], std: float) -> Array:
    """N(0, std^2), block by block into one buffer: drawn at once, a table would take four times its memory."""
    block = min(shape[0], _DRAWN_ROWS)

    def draw(i: Array, table: Array) -> Array:
        values = std * jax.random.normal(jax.random.fold_in(key, i), (block, shape[1]), jnp.float32)
        return lax.dynamic_update_slice(table, values, (jnp.minimum(i * block, shape[0] - block), 0))

    return lax.fori_loop(0, -(-shape[0] // block), draw, jnp.zeros(shape, jnp.float32))


def gather(tables: Mapping[str, Array], rows: dict[str, Array]) -> dict[str, Array]:
    """Rows of every table, `[B, slots, dim]`; zeros for an empty slot."""
    return {name: tables[name].at[r].get(mode="fill", fill_value=0.0) for name, r in rows.items()}


@dataclass(frozen=True)
class _Part:
    """Adjacent slots that enter the tower together: a run of categorical features, or one bag or sequence."""

    kind: str
    feature: str
    table: str
    first: int  # column of the group
    last: int


class TowerInput(nnx.Module):
    """Gathered rows and floats of one tower -> x0 `[width, B]`, an example a column.

    A categorical feature enters as its row, a bag as the mean of its rows, a sequence as a mean weighted by a learned
    softmax over recency (slot 0 is the newest), numbers and dense vectors as they are. In schema order, ids first.
    """

    def __init__(self, schema: Schema, tower: Tower) -> None:
        tables = Tables(schema)
        features = [schema.feature(name) for name, _, _ in schema.layout[tower].ids]
        self.parts = tuple(_parts(schema, tower, tables.groups[tower]))
        self.width = sum(f.dim for f in features) + schema.layout[tower].float_width
        self.past_end = {name: rows for name, (rows, _) in tables.shapes.items()}
        self.recency = nnx.Dict(
            {f.name: nnx.Param(jnp.zeros((f.slots,), jnp.float32)) for f in features if f.kind == "sequence"}
        )

    def __call__(self, gathered: dict[str, Array], rows: dict[str, Array], floats_BF: Array) -> Array:
        """`gathered[table]` is `[B, slots, dim]` and `rows[table]` `[B, slots]`, of `gather` and `Tables.rows`."""
        inputs: list[Array] = []
        for part in self.parts:
            rows_BLd = gathered[part.table][:, part.first : part.last]
            if part.kind == "categorical":
                inputs.append(rows_BLd.reshape(rows_BLd.shape[0], rows_BLd.shape[1] * rows_BLd.shape[2]))
            else:
                present_BL = rows[part.table][:, part.first : part.last] < self.past_end[part.table]
                inputs.append(self._pool(part, rows_BLd, present_BL))
        return jnp.concatenate([*inputs, floats_BF], axis=-1).T

    def _pool(self, part: _Part, rows_BLd: Array, present_BL: Array) -> Array:
        weight_L = jnp.ones((part.last - part.first,), jnp.float32)
        if part.kind == "sequence":
            weight_L = jax.nn.softmax(self.recency[part.feature][...])
        weight_BL = jnp.where(present_BL, weight_L, jnp.float32(0.0))
        total_B1 = jnp.sum(weight_BL, axis=1, keepdims=True)
        return jnp.sum(rows_BLd * (weight_BL / jnp.maximum(total_B1, 1e-12))[:, :, None], axis=1)


def _parts(schema: Schema, tower: Tower, groups: tuple[Group, ...]) -> list[_Part]:
    parts: list[_Part] = []
    for name, slot, _ in schema.layout[tower].ids:
        f = schema.feature(name)
        group = next(g for g in groups if slot in g.columns)
        first = group.columns.index(slot)
        part = _Part(f.kind, name, group.table, first, first + f.slots)
        last = parts[-1] if parts else None
        if last and last.kind == f.kind == "categorical" and (last.table, last.last) == (part.table, first):
            parts[-1] = _Part(last.kind, last.feature, last.table, last.first, part.last)
        else:
            parts.append(part)
    return parts
