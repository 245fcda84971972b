"""The record of a run: everything it used, in `WORKDIR/config.json`, to resume, evaluate and export it by."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tt_jax.config import Config, ConfigError, StageConfig
from tt_jax.io.publish import Format, read_digested, write_digested
from tt_jax.io.strict_json import dataclass_from_dict
from tt_jax.parallel.processes import gather, is_first
from tt_jax.runs.environment import environment, environment_differences
from tt_jax.schema import Schema

RECORD = "config.json"
FORMAT = Format("tt-jax run", (1, 2))  # 1 had no digest, and at first no stages
log = logging.getLogger(__name__)
MAY_CHANGE = (  # without changing what is computed
    "data.path", "train.log_every", "train.keep_last", "profile", "sharding.mesh", "sharding.tables",
    "sharding.split_rows_gb",
)  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """A set that a run went on with, once its own was learned.

    Attributes:
      path: of the prepared set.
      splits: of it, pooled.
      data: its fingerprint.
      start, steps: steps done before it, and those that it takes.
      options: how it is learned.
    """

    path: str
    splits: tuple[str, ...]
    data: str
    start: int
    steps: int
    options: StageConfig

    @property
    def end(self) -> int:
        """The step after which it is learned."""
        return self.start + self.steps


@dataclass(frozen=True)
class Record:
    """What a run used.

    Attributes:
      config: its configuration.
      schema: of its data.
      data: fingerprint of its prepared set.
      environment: versions, devices and cores that it began with; a resume with others is told, see `tell_elsewhere`.
      stages: the sets that it went on with, in order; the last one may not be learned yet.
    """

    config: Config
    schema: Schema
    data: str
    environment: dict[str, Any]
    stages: tuple[Stage, ...] = ()

    def learned(self, step: int) -> list[dict[str, Any]]:
        """The sets that a checkpoint has learned, or begun to learn, in order: path, splits and fingerprint of each."""
        data = self.config.data
        first = {"path": data.path, "splits": list(data.train_splits), "fingerprint": self.data}
        return [
            first,
            *({"path": s.path, "splits": list(s.splits), "fingerprint": s.data} for s in self.stages if s.start < step),
        ]


def describe(config: Config, schema: Schema, data: str) -> Record:
    """The record of a run that starts here and now."""
    return Record(config, schema, data, environment())


def open_workdir(workdir: Path, record: Record) -> None:
    """Creates the directory with its record, or checks that the run it holds is the same one.

    Of many processes the first one writes; all must have the same configuration and data. Raises `ConfigError` naming
    what differs.
    """
    _check_all_processes(record)
    if not (workdir / RECORD).exists():
        if any(path.name.isdigit() for path in (workdir / "checkpoints").glob("*")):
            raise ConfigError(f"{workdir}: checkpoints, and no {RECORD} that says of what. Use a new --workdir")
        if is_first():
            write_record(workdir, record)
        return
    old = read_record(workdir)
    differs = differences(old.config, record.config)
    if old.data != record.data:
        differs.append("the prepared data are others")
    if old.schema != record.schema:
        differs.append("the schema is another")
    if differs:
        raise ConfigError(f"{workdir} holds another run: {'; '.join(differs)}. Use a new --workdir")
    if old.stages:
        raise ConfigError(f"{workdir}: the run went on with {len(old.stages)} sets; give the last one again, as --data")
    tell_elsewhere(workdir, old)


def tell_elsewhere(workdir: Path, record: Record) -> None:
    """A line where a run goes on with other versions, devices or cores than it began with: with them go its bits."""
    differs = environment_differences(record.environment, environment())
    if differs and is_first():
        log.warning(
            "%s: from here on the bits may be others than they would have been: %s", workdir, "; ".join(differs)
        )


def differences(before: Config, now: Config) -> list[str]:
    """What differs between two configurations, and may not within a run, by name."""
    old, new = _flat(before), _flat(now)
    return [f"config.{k} was {old[k]!r} and is {new[k]!r}" for k in new if k not in MAY_CHANGE and old[k] != new[k]]


def write_record(workdir: Path, record: Record) -> None:
    """Writes the record, whole or not at all."""
    write_digested(workdir / RECORD, dataclasses.asdict(record), FORMAT)


def _check_all_processes(record: Record) -> None:
    flat = {f"config.{key}": value for key, value in _flat(record.config).items() if key != "data.path"}
    flat["data"] = record.data  # the fingerprint of a prepared set covers its schema
    first, *others = gather(flat)
    for process, other in enumerate(others, 1):
        for key, value in first.items():
            if other[key] != value:
                raise ConfigError(f"{key} is {value!r} in process 0 and {other[key]!r} in process {process}")


def read_record(workdir: Path) -> Record:
    """The record of a run. Raises `ConfigError` where there is none, or it is not as it was written."""
    path = workdir / RECORD
    if not path.is_file():
        raise ConfigError(f"{workdir}: no {RECORD}; expected a directory that `tt-jax train` wrote")
    data = read_digested(path, FORMAT, ConfigError)
    try:
        if isinstance(data, dict):
            data.setdefault("stages", [])  # a run of the time before there were any
        return dataclass_from_dict(Record, data, "run", ConfigError, complete=True)
    except ValueError as e:  # what Config and Schema say of their values too
        raise ConfigError(f"{path}: not the record of a run: {e}") from None


def _flat(config: Config) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in dataclasses.asdict(config).items():
        flat.update({f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value})
    return flat
