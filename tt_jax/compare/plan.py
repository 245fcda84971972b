"""What a comparison trains: configurations x modes x seeds, as runs that are identified by what they compute."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from input_pipeline.blocks.prepared_set import PreparedSet
from tt_jax.calibration.maps import Method
from tt_jax.config import Config
from tt_jax.io.publish import write_json
from tt_jax.io.strict_json import nearest, parse_json
from tt_jax.runs.record import MAY_CHANGE
from tt_jax.training.setup import check_config

PLAN = "compare.json"
MODES = {
    "pooled": "one model of all scenarios",
    "split": "a model per scenario, trained on its own rows",
    "weighted": "one model of all scenarios, whose rows weigh the same in all",
}
Calibrate = Literal["none"] | Method
NOT_CALIBRATED: Literal["none"] = "none"


class CompareError(ValueError):
    """A comparison that cannot be made. The message names the argument, its value and what was expected."""


@dataclass(frozen=True)
class Run:
    """A model to train on a prepared set.

    Attributes:
      config: all of it.
      data: fingerprint of the set.
    """

    config: Config
    data: str

    @cached_property
    def identity(self) -> str:
        """SHA-256, hexadecimal, of all that the outcome depends on: rows that have a run in common share it."""
        config = self.config.to_dict()
        for key in MAY_CHANGE:
            *groups, last = key.split(".")
            group = config
            for name in groups:
                group = group[name]
            del group[last]
        return hashlib.sha256(json.dumps([config, self.data], sort_keys=True).encode()).hexdigest()

    @property
    def name(self) -> str:
        """Of its directory: what a reader looks for, made unique by the identity."""
        scenarios = "+".join(self.config.data.scenarios) or "all"
        return f"{scenarios}-seed{self.config.seed}-{self.identity[:12]}"


@dataclass(frozen=True)
class Row:
    """A line of the comparison.

    Attributes:
      config: name of the configuration.
      mode: one of `MODES`.
      seeds: by seed the runs whose predictions make it up: one, or with `split` one for each scenario.
    """

    config: str
    mode: str
    seeds: tuple[tuple[Run, ...], ...]

    @property
    def name(self) -> str:
        """`CONFIG, MODE`."""
        return f"{self.config}, {self.mode}"

    @property
    def runs(self) -> tuple[Run, ...]:
        """Of all seeds."""
        return tuple(run for runs in self.seeds for run in runs)


@dataclass(frozen=True)
class Plan:
    """A comparison.

    Attributes:
      rows: the first one is the reference that the others are compared with.
      scenarios: those that all rows are evaluated on.
      splits: those that they are evaluated on, which no run may see.
      data: fingerprint of the prepared set.
      calibrate: how the probabilities of every run are fitted to the labels of its eval split; no part of its identity,
        since it is done after the training.
    """

    rows: tuple[Row, ...]
    scenarios: tuple[str, ...]
    splits: tuple[str, ...]
    data: str
    calibrate: Calibrate = NOT_CALIBRATED

    @property
    def runs(self) -> tuple[Run, ...]:
        """All of them, each once."""
        return tuple({run.identity: run for row in self.rows for run in row.runs}.values())


def make_plan(
    configs: Mapping[str, Config],
    modes: Sequence[str],
    seeds: int,
    splits: Sequence[str],
    prepared: PreparedSet,
    calibrate: Calibrate = NOT_CALIBRATED,
) -> Plan:
    """The runs of every configuration, mode and seed; seeds count up from the configuration's own.

    Raises `CompareError`, `ConfigError` or `PreparedError` on what cannot be compared, before anything is trained.
    """
    _check_arguments(configs, modes, seeds, splits)
    for config in configs.values():
        check_config(config, prepared.schema)
    (scenarios, *others) = dict.fromkeys(c.data.scenarios or prepared.schema.scenarios for c in configs.values())
    if others:
        raise CompareError(f"--configs: expected the same data.scenarios in all, got {scenarios} and {others[0]}")
    for name, config in configs.items():
        _check_splits(name, config, splits)
    for split in splits:
        prepared.files(split, scenarios)  # raises if there is nothing to evaluate on
    rows = tuple(
        Row(name, mode, tuple(_runs(config, mode, seed, scenarios, prepared) for seed in range(seeds)))
        for name, config in configs.items()
        for mode in modes
    )
    return Plan(rows, scenarios, tuple(splits), prepared.fingerprint, calibrate)


def _check_arguments(configs: Mapping[str, Config], modes: Sequence[str], seeds: int, splits: Sequence[str]) -> None:
    for key, values in (("configs", configs), ("modes", modes), ("splits", splits)):
        if not values or len(set(values)) < len(values):
            raise CompareError(f"--{key}: expected distinct names, at least one, got {', '.join(values) or 'none'}")
    for mode in modes:
        if mode not in MODES:
            raise CompareError(f"--modes: unknown mode {mode!r}{nearest(mode, MODES)}")
    if seeds < 1:
        raise CompareError(f"--seeds={seeds}: expected at least 1")


def _check_splits(name: str, config: Config, splits: Sequence[str]) -> None:
    """What a run learns from, or its checkpoint is chosen by, cannot judge it."""
    seen = {**dict.fromkeys(config.data.train_splits, "train_splits"), config.data.eval_split: "eval_split"}
    for split in splits:
        if split in seen:
            raise CompareError(
                f"--splits={split}: expected a split that no run sees; it is the data.{seen[split]} of {name}"
            )


def _runs(config: Config, mode: str, seed: int, scenarios: tuple[str, ...], prepared: PreparedSet) -> tuple[Run, ...]:
    changes: list[dict[str, Any]] = [{}]
    if mode == "split":
        changes = [{"scenarios": (name,)} for name in scenarios]
    if mode == "weighted":
        changes = [{"scenario_weights": equal_weights(config, scenarios, prepared)}]
    seeded = dataclasses.replace(config, seed=config.seed + seed)
    configs = [dataclasses.replace(seeded, data=dataclasses.replace(config.data, **change)) for change in changes]
    return tuple(Run(c, prepared.fingerprint) for c in configs)


def equal_weights(config: Config, scenarios: Sequence[str], prepared: PreparedSet) -> tuple[str, ...]:
    """`data.scenario_weights` by which the training rows of every scenario weigh the same, and a row 1 in the mean.

    None where they do anyway: such a run is the pooled one.
    """
    rows = {name: sum(prepared.rows(split, (name,)) for split in config.data.train_splits) for name in scenarios}
    mean = sum(rows.values()) / len(rows)
    if all(count == mean for count in rows.values()):
        return ()
    return tuple(f"{name}={mean / count:.6g}" for name, count in rows.items())


def claim(plan: Plan, out: Path) -> None:
    """Writes down which comparison a directory holds. Raises `CompareError` naming what differs if it holds another."""
    path, now = out / PLAN, _outline(plan)
    if not path.exists():
        write_json(path, now)
        return
    before = parse_json(path.read_text(), str(path), CompareError)
    for key, value in now.items():
        if before.get(key) != value:
            raise CompareError(f"{out} holds another comparison, with other {key}; use a new --out")


def _outline(plan: Plan) -> dict[str, Any]:
    return {
        "data": plan.data,
        "splits": list(plan.splits),
        "rows": [row.name for row in plan.rows],
        "seeds": len(plan.rows[0].seeds),
        "runs": [run.identity for run in plan.runs],
    }
