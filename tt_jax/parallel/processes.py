"""Many processes that train one model: how they find each other, agree, and hold arrays in common.

With one process every function here does nothing, or what JAX does by itself.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Sharding

CONNECT_S = 120  # for all processes to be there
HEARTBEAT_S = 20  # without a sign of life of one process, the others are ended
SHUTDOWN_S = 30  # a process that is done, or has failed, waits so long for the others to be

_PAD = 4096  # bytes; values are exchanged in multiples of it, so that few shapes are compiled
_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class DistributedError(ValueError):
    """Processes that cannot train together. The message names what does not fit."""


@dataclass(frozen=True)
class Place:
    """One process among many.

    Attributes:
      coordinator: `host:port` where process 0 listens.
      processes: how many there are.
      process: index of this one.
      device: the only device of this host that the process uses, on a GPU; None = all.
    """

    coordinator: str
    processes: int
    process: int
    device: int | None = None

    def __post_init__(self) -> None:
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise DistributedError(f"coordinator: expected HOST:PORT, got {self.coordinator!r}")
        if not 0 <= self.process < self.processes:
            raise DistributedError(
                f"process {self.process} of {self.processes}: expected an index below the number of processes"
            )


def find_place(
    coordinator: str | None, processes: int | None, process: int | None, environment: Mapping[str, str]
) -> Place | None:
    """The place of this process by flags, else by the variables that torchrun sets; None = it is alone.

    Raises `DistributedError` where some of the flags, or of the variables, are missing or make no sense.
    """
    flags = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    missing = [name for name, value in flags.items() if value is None]
    if coordinator is not None and processes is not None and process is not None:
        return Place(coordinator, processes, process)
    if len(missing) < len(flags):
        raise DistributedError(f"expected all of {', '.join(flags)}, or none; missing: {', '.join(missing)}")
    if "RANK" not in environment and "WORLD_SIZE" not in environment:
        return None
    missing = [name for name in _TORCHRUN if name not in environment]
    if missing:
        raise DistributedError(f"expected all of {', '.join(_TORCHRUN)}, or none; missing: {', '.join(missing)}")
    device = _number(environment, "LOCAL_RANK") if "LOCAL_RANK" in environment else None
    address = f"{environment['MASTER_ADDR']}:{environment['MASTER_PORT']}"
    return Place(address, _number(environment, "WORLD_SIZE"), _number(environment, "RANK"), device)


def _number(environment: Mapping[str, str], name: str) -> int:
    if not environment[name].isdecimal():
        raise DistributedError(f"{name}: expected a number, got {environment[name]!r}")
    return int(environment[name])


def initialize(place: Place | None) -> None:
    """Connects the processes; before JAX touches a device. None: by what JAX finds out itself (Slurm, Kubernetes, ...).

    From here on, a process that dies ends all others: see `HEARTBEAT_S`.
    """
    if place is not None and place.processes == 1:
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM from us
    timeouts: dict[str, Any] = {
        "initialization_timeout": CONNECT_S,
        "heartbeat_timeout_seconds": HEARTBEAT_S,
        "shutdown_timeout_seconds": SHUTDOWN_S,
    }
    if place is None:
        try:
            jax.distributed.initialize(**timeouts)
        except ValueError as e:
            raise DistributedError(f"no cluster found ({e}): pass --coordinator, --processes, --process") from e
        return
    jax.distributed.initialize(
        place.coordinator,
        place.processes,
        place.process,
        local_device_ids=None if place.device is None else [place.device],
        cluster_detection_method="deactivate",
        **timeouts,
    )


@contextmanager
def failing_together() -> Iterator[None]:
    """Ends this process at once where a device or a barrier fails, as they do when another process has died.

    An ordinary exit would first wait for the dead process, in Orbax or in JAX, until `HEARTBEAT_S` have passed.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError:
        if jax.process_count() == 1:
            raise
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def is_first() -> bool:
    """Whether this process is the one that writes logs and records."""
    return jax.process_index() == 0


def gather(value: Any) -> list[Any]:
    """A JSON value of every process, by process. All must call it, at the same point."""
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = max(int(n) for n in multihost_utils.process_allgather(np.int32(data.size)))
    padded = np.full(-(-size // _PAD) * _PAD, ord(" "), np.uint8)
    padded[: data.size] = data
    return [json.loads(row.tobytes()) for row in multihost_utils.process_allgather(padded)]


def place_arrays(tree: Any, shardings: Any) -> Any:
    """Values that are the same in every process, as arrays that the processes hold in common."""
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)

    def place(value: Any, sharding: Sharding) -> jax.Array:
        host = np.asarray(value)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(place, tree, shardings)
