"""A run goes on with more prepared sets, as a day of logs after another: each is validated, then learned.

`config.json` of the run names them in order, with the steps that each takes, so that a step count says which set it is
in and how far: with the input position of the checkpoint, a run that was killed goes on exactly.
"""

from __future__ import annotations

import dataclasses
import reprlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import jax

from input_pipeline.blocks.prepared_set import Part, PreparedSet
from tt_jax.config import Config, ConfigError, StageConfig
from tt_jax.runs.checkpoints import Checkpoints
from tt_jax.runs.lock import locked
from tt_jax.runs.record import Record, Stage, differences, read_record, tell_elsewhere, write_record
from tt_jax.schema import Schema
from tt_jax.training.loop import Result, run
from tt_jax.training.setup import Setup, replay_rows


def go_on(
    config: Config, workdir: Path, sets: Sequence[str], options: StageConfig, name: str = "train"
) -> list[Result]:
    """Finishes what a run has begun, then validates and learns each set that it has not learned yet, in this order.

    Args:
      config: that of the run, but for what may change within one.
      workdir: directory of the run.
      sets: `PATH[:SPLIT[,SPLIT]]` of prepared sets with the run's schema; without splits, those that the run trains on.
      options: how they are learned.
      name: what progress lines begin with.

    Returns how each set ended that was worked on, up to the one that a signal stopped. Raises, besides what `train`
    does, `ConfigError` where a set has another schema, or the run has learned a part of it; where the run stops early,
    or has begun a set with other options; and for many processes.
    """
    read_record(workdir)  # raises where there is no run, and so nothing to lock
    with locked(workdir):
        return _go_on(config, workdir, sets, options, name)


def _go_on(config: Config, workdir: Path, sets: Sequence[str], options: StageConfig, name: str) -> list[Result]:
    record = _record_of(config, workdir)
    tell_elsewhere(workdir, record)
    new: list[Part] = []
    known: list[int] = []
    for part in [_open(text, record) for text in sets]:
        text = f"{part.prepared.root}:{','.join(part.splits)}"
        number = _number(part, record, text)
        if number is not None:
            print(f"{name}: {text} is set {number} of this run already", file=sys.stderr)
            known.append(number)
            record = _moved(record, number, part)
        elif any(_overlap(part, p.prepared.fingerprint, p.splits) for p in new):
            raise ConfigError(f"--data={text}: given twice")
        else:
            new.append(part)
    results: list[Result] = []
    for setup in _unfinished(record, config, workdir):
        if setup.stage in [record.stages[n - 1] for n in known if n] and setup.stage.options != options:
            raise ConfigError(f"{setup.stage.path}: was begun with {setup.stage.options}; got {options}")
        results.append(run(setup, workdir, name))
        if results[-1].stopped_by:
            return results
    for part in new:
        stage = _stage(record, config, part, options)
        longer = dataclasses.replace(record, stages=(*record.stages, stage))
        setup = _setup(longer, config, stage)  # raises before the run knows of the set
        record = longer
        write_record(workdir, record)
        results.append(run(setup, workdir, name))
        if results[-1].stopped_by:
            return results
    return results


def _record_of(config: Config, workdir: Path) -> Record:
    """The record of the run. Raises `ConfigError` where it is another one, or cannot go on."""
    record = read_record(workdir)
    if differs := differences(record.config, config):
        raise ConfigError(f"{workdir} holds another run: {'; '.join(differs)}")
    if config.train.early_stop:
        raise ConfigError(
            f"{workdir}: config.train.early_stop is {config.train.early_stop!r}, and a run that picks its best step has"
            " no newest one to go on from; train one without"
        )
    if jax.process_count() > 1:
        raise ConfigError(f"--data: one process goes on with a run, got {jax.process_count()}")
    return record


def _open(text: str, record: Record) -> Part:
    """The part that an argument names. Raises `ConfigError` where its schema is not that of the run."""
    path, _, splits = text.partition(":")
    prepared = PreparedSet.open(path)
    if differs := schema_differences(record.schema, prepared.schema):
        raise ConfigError(f"--data={text}: its schema is not that of the run: {'; '.join(differs)}")
    part = Part(prepared, tuple(splits.split(",")) if splits else record.config.data.train_splits)
    if len(set(part.splits)) < len(part.splits):
        raise ConfigError(f"--data={text}: expected distinct splits")
    part.rows(record.config.data.scenarios)  # raises where there is nothing to read
    return part


def schema_differences(before: Schema, now: Schema) -> list[str]:
    """What differs between two schemas, by name of the feature, the task or the field."""
    old, new = _flat(before), _flat(now)
    differs = [
        f"{name} was {reprlib.repr(old.get(name))} and is {reprlib.repr(new.get(name))}"
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    ]
    if not differs and before != now:
        differs.append("features or tasks are in another order")
    return differs


def _flat(schema: Schema) -> dict[str, object]:
    """Every value of a schema by a name, as `feature age.dim`."""
    found: dict[str, object] = {}
    for key, value in dataclasses.asdict(schema).items():
        if key in ("features", "tasks"):
            found |= {f"{key[:-1]} {part['name']}.{k}": v for part in value for k, v in part.items()}
        else:
            found[key] = value
    return found


def _moved(record: Record, number: int, part: Part) -> Record:
    """The record with the present path of a set that it has."""
    if not number:
        return record
    stages = list(record.stages)
    stages[number - 1] = dataclasses.replace(stages[number - 1], path=str(part.prepared.root))
    return dataclasses.replace(record, stages=tuple(stages))


def _number(part: Part, record: Record, text: str) -> int | None:
    """Which set of the run it is, 0 being its own; None if it is new. Raises `ConfigError` if some of it is not."""
    learned = [(record.data, record.config.data.train_splits), *((s.data, s.splits) for s in record.stages)]
    for number, (fingerprint, splits) in enumerate(learned):
        if _overlap(part, fingerprint, splits):
            if set(part.splits) == set(splits):
                return number
            raise ConfigError(f"--data={text}: the run has learned {', '.join(splits)} of it, as set {number}")
    return None


def _overlap(part: Part, fingerprint: str, splits: Sequence[str]) -> bool:
    return part.prepared.fingerprint == fingerprint and bool(set(part.splits) & set(splits))


def _unfinished(record: Record, config: Config, workdir: Path) -> Iterator[Setup]:
    """Of what the run has begun and not finished, one set after another."""
    with closing(Checkpoints(workdir)) as checkpoints:
        step = checkpoints.last_whole_step()
    if not record.stages or step < record.stages[0].start:
        setup = Setup(config, _first(record, config).prepared)
        if step < setup.total_steps:
            yield setup
    for stage in record.stages:
        if step < stage.end:
            yield _setup(record, config, stage)


def _stage(record: Record, config: Config, part: Part, options: StageConfig) -> Stage:
    """The stage of a new set, after all others."""
    rows, batch = part.rows(config.data.scenarios), config.data.batch_size
    steps = max(1, rows // (batch - replay_rows(batch, options.replay)))
    start = record.stages[-1].end if record.stages else Setup(config, _first(record, config).prepared).total_steps
    return Stage(str(part.prepared.root), part.splits, part.prepared.fingerprint, start, steps, options)


def _setup(record: Record, config: Config, stage: Stage) -> Setup:
    """The setup of a stage; the past is opened only where it is replayed."""
    past: list[Part] = []
    if stage.options.replay:
        before = record.stages[: record.stages.index(stage)]
        past = [_first(record, config), *(_at(s.path, s.data, s.splits) for s in before)]
    return Setup(config, _at(stage.path, stage.data, stage.splits).prepared, stage, tuple(past))


def _first(record: Record, config: Config) -> Part:
    return _at(config.data.path, record.data, config.data.train_splits)


def _at(path: str, fingerprint: str, splits: tuple[str, ...]) -> Part:
    prepared = PreparedSet.open(path)
    if prepared.fingerprint != fingerprint:
        raise ConfigError(f"{path}: not the set that the run has learned, which has the fingerprint {fingerprint[:12]}")
    return Part(prepared, splits)
