"""A teacher's probabilities as labels: a copy of a prepared set whose every row has what the teacher gives for it."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.special import expit

from input_pipeline.batches import eval_batches
from input_pipeline.blocks.block import Block
from input_pipeline.blocks.manifest import ADS, Counts, Manifest
from input_pipeline.blocks.prepared_set import PreparedSet
from input_pipeline.blocks.samples import SAMPLES
from input_pipeline.prepare.writer import PreparedWriter
from tt_jax.config import ConfigError
from tt_jax.evaluation.predict import INPUT_ARRAYS, Predict, finite_rows, make_predict
from tt_jax.io.publish import published_directory, write_json
from tt_jax.schema import Schema, Task
from tt_jax.training.trained import Trained

TEACHER = "teacher.json"  # in the labelled set: whose probabilities they are


def label(teacher: Trained, prepared: PreparedSet, out: str | Path) -> Manifest:
    """Writes a prepared set to `out`: that one, with the soft tasks `teacher_HEAD` added, or their labels replaced.

    Row by row in the order of the set, block by block in memory; the same teacher and set give the same bytes.

    Args:
      teacher: of any kind, with a head for at least one head of the set; trained on all its scenarios.
      prepared: the set to label. Its features are the teacher's.
      out: directory to create; it appears whole or not at all.

    Raises:
      ConfigError: the teacher does not fit the set; the message names what differs.
      PublishError: `out` exists, or another run is writing it.
    """
    schema, heads = labelled_schema(teacher, prepared.schema)
    predict = make_predict(teacher.model)
    with published_directory(out) as folder:
        writer = PreparedWriter(folder, schema, prepared.manifest.block_rows)
        try:
            for split, scenarios in prepared.manifest.splits.items():
                writer.declare(split)
                for scenario, counts in scenarios.items():
                    if counts.rows:
                        missing = _missing(counts)
                        for block in _labelled(teacher, predict, prepared, split, scenario, schema, heads):
                            writer.add(split, scenario, block, missing)
                            missing = {}
            writer.close()
        except BaseException:
            writer.abandon()
            raise
        for name in (SAMPLES, ADS):
            if (prepared.root / name).exists():
                shutil.copyfile(prepared.root / name, folder / name)
        facts = {"fingerprint": teacher.fingerprint, "step": teacher.step, "heads": heads, "data": prepared.fingerprint}
        write_json(folder / TEACHER, facts)
        return writer.finish()


def labelled_schema(teacher: Trained, data: Schema) -> tuple[Schema, tuple[str, ...]]:
    """The schema of a set that a teacher has labelled, and the heads that it has labels for.

    A task of that name stays where it is and keeps its weight. Raises `ConfigError` where the teacher does not fit.
    """
    known = teacher.record.schema
    _check_inputs(known, data)
    missing = set(data.scenarios) - set(teacher.record.config.data.scenarios or known.scenarios)
    if missing:
        raise ConfigError(f"the teacher was not trained on the scenario {min(missing)!r} of the data")
    heads = tuple(h for h in data.heads if h in known.heads)
    if not heads:
        raise ConfigError(f"the teacher has the heads {', '.join(known.heads)}, the data {', '.join(data.heads)}")
    tasks = {task.name: task for task in data.tasks}
    for head in heads:
        name = f"teacher_{head}"
        old = tasks.get(name, Task(name, name, "soft", head=head))
        if (old.kind, old.head) != ("soft", head):
            raise ConfigError(f"the data has a task {name!r} that is not a soft label of the head {head!r}")
        tasks[name] = dataclasses.replace(old, mask="", weight_column="")  # every row has one
    return dataclasses.replace(data, tasks=tuple(tasks.values())), heads


def _check_inputs(teacher: Schema, data: Schema) -> None:
    for a, b in zip(teacher.features, data.features, strict=False):
        if a != b:
            what = f"is {b} in the data" if a.name == b.name else f"stands where the data has {b.name!r}"
            raise ConfigError(f"the teacher's feature {a.name!r} {what}; expected the same features in the same order")
    if len(teacher.features) != len(data.features):
        longer = max(teacher.features, data.features, key=len)
        name = longer[min(len(teacher.features), len(data.features))].name
        owner = "teacher" if longer is teacher.features else "data"
        raise ConfigError(f"only the {owner} has the feature {name!r}; expected the same features")
    if teacher.scenario != data.scenario:
        raise ConfigError(f"the scenario column is {teacher.scenario!r} for the teacher, {data.scenario!r} in the data")


def _labelled(
    teacher: Trained,
    predict: Predict,
    prepared: PreparedSet,
    split: str,
    scenario: str,
    schema: Schema,
    heads: tuple[str, ...],
) -> Iterator[Block]:
    """The rows of a scenario of a split, with the matrices of the new schema."""
    old = prepared.schema.task_names
    kept = [old.index(name) if name in old else -1 for name in schema.task_names]
    output = {f"teacher_{head}": teacher.record.schema.heads.index(head) for head in heads}
    batch_size = teacher.record.config.data.eval_batch_size
    for batch, rows in eval_batches(prepared, split, (scenario,), batch_size):
        logits_BH = predict(teacher.params, teacher.tables, {name: batch[name] for name in INPUT_ARRAYS})
        probability_BH = expit(finite_rows(logits_BH, rows, prepared, split))
        labels, weights = np.empty((rows, len(kept)), np.float32), np.ones((rows, len(kept)), np.float32)
        for t, name in enumerate(schema.task_names):
            if name in output:
                labels[:, t] = probability_BH[:, output[name]]
            else:
                labels[:, t], weights[:, t] = batch["labels"][:rows, kept[t]], batch["weights"][:rows, kept[t]]
        yield {**{name: matrix[:rows] for name, matrix in batch.items()}, "labels": labels, "weights": weights}


def _missing(counts: Counts) -> dict[str, int]:
    """Rows in which each feature is missing, back from its coverage."""
    return {name: round((1 - share) * counts.rows) for name, share in counts.coverage.items() if share is not None}
