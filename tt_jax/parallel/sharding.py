"""Mesh and placement rules. The model knows none of it.

Two mesh axes: `host`, the processes, and `device`, the devices of each. A batch is split by rows over all devices.
Dense parameters are replicated. A table `[rows, dim]` is split by columns over the devices of a host, so that small ids
are gathered and each value moves once; a table too large for that is split by rows over the hosts too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from tt_jax.config import ConfigError, ShardingConfig
from tt_jax.io.strict_json import nearest

HOST, DEVICE = "host", "device"
PLACEMENTS = {
    "replicated": PartitionSpec(),
    "columns": PartitionSpec(None, DEVICE),
    "rows": PartitionSpec(HOST),
    "rows+columns": PartitionSpec(HOST, DEVICE),
}


def make_mesh(shape: str = "", devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh of all devices, or of the given ones.

    `shape` is `HOSTSxDEVICES`, as in `2x4`, which must use every device; "" = as the devices are spread over processes.
    Raises `ConfigError`.
    """
    found = sorted(jax.devices() if devices is None else devices, key=lambda d: (d.process_index, d.id))
    sizes = len({d.process_index for d in found}), -1
    if shape:
        match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", shape)
        if not match or int(match[1]) * int(match[2]) != len(found):
            raise ConfigError(
                f"config.sharding.mesh: expected HOSTSxDEVICES of {len(found)} devices in all, got {shape!r}"
            )
        sizes = int(match[1]), int(match[2])
    elif len(found) % sizes[0]:
        raise ConfigError(f"{len(found)} devices on {sizes[0]} processes: expected as many devices on each")
    return Mesh(np.array(found).reshape(sizes), (HOST, DEVICE), axis_types=(AxisType.Auto, AxisType.Auto))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over all devices."""
    return NamedSharding(mesh, PartitionSpec((HOST, DEVICE)))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def place_tables(
    mesh: Mesh | AbstractMesh, shapes: Mapping[str, tuple[int, int]], config: ShardingConfig
) -> dict[str, str]:
    """Which of `PLACEMENTS` each float32 table `(rows, dim)` gets: the first of `config.tables` that matches its whole
    name, or else by its size. Raises `ConfigError` for a rule that is wrong, matches nothing or cannot be followed."""
    rules = [_parse(rule, shapes) for rule in config.tables]
    found = {}
    for name, (rows, dim) in shapes.items():
        chosen = next((placement for regex, placement in rules if re.fullmatch(regex, name)), None)
        found[name] = chosen or _by_size(mesh, rows, dim, config.split_rows_gb)
        if "columns" in found[name] and dim % mesh.shape[DEVICE]:
            raise ConfigError(f"table {name!r}: {dim} columns cannot be split over {mesh.shape[DEVICE]} devices")
        if "rows" in found[name] and rows % mesh.shape[HOST]:
            raise ConfigError(
                f"table {name!r}: {rows} rows cannot be split over {mesh.shape[HOST]} hosts; make a hash_size of its "
                f"features {mesh.shape[HOST] - rows % mesh.shape[HOST]} larger, or place it by config.sharding.tables"
            )
    return found


def _by_size(mesh: Mesh | AbstractMesh, rows: int, dim: int, split_rows_gb: float) -> str:
    columns = dim % mesh.shape[DEVICE] == 0
    gigabytes = 4 * rows * dim / (mesh.shape[DEVICE] if columns else 1) / 1e9
    if mesh.shape[HOST] > 1 and gigabytes > split_rows_gb:
        return "rows+columns" if columns else "rows"
    return "columns" if columns else "replicated"


def _parse(rule: str, tables: Mapping[str, Any]) -> tuple[str, str]:
    """`REGEX=PLACEMENT`."""
    regex, equals, placement = rule.rpartition("=")
    if not equals or placement not in PLACEMENTS:
        raise ConfigError(
            f"config.sharding.tables: expected REGEX=PLACEMENT, got {rule!r}{nearest(placement, PLACEMENTS)}"
        )
    try:
        matches = any(re.fullmatch(regex, name) for name in tables)
    except re.error as e:
        raise ConfigError(f"config.sharding.tables: {regex!r} is no regular expression: {e}") from None
    if not matches:
        raise ConfigError(f"config.sharding.tables: no table is named {regex!r}{nearest(regex, tables)}")
    return regex, placement


def state_specs(state: Any, placements: Mapping[str, str]) -> Any:
    """A `PartitionSpec` for every leaf of a `TrainState`: the first rule that matches its whole path.

    Raises `ValueError` for a leaf that no rule covers.
    """
    rules = [
        *((f"tables/{re.escape(name)}", PLACEMENTS[p]) for name, p in placements.items()),
        *((f"accumulators/{re.escape(name)}", PartitionSpec(*PLACEMENTS[p][:1])) for name, p in placements.items()),
        (r"(step|params|optimizer|metrics|admissions|tables/keys)(/.*)?", PartitionSpec()),
    ]

    def spec(path: Any, _: Any) -> PartitionSpec:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        for regex, value in rules:
            if re.fullmatch(regex, name):
                return value
        raise ValueError(f"no placement rule covers {name!r} of the state")

    return jax.tree_util.tree_map_with_path(spec, state)


def on_mesh(mesh: Mesh, specs: Any) -> Any:
    """The same tree of `NamedSharding`s."""
    return jax.tree.map(lambda s: NamedSharding(mesh, s), specs, is_leaf=lambda s: isinstance(s, PartitionSpec))
