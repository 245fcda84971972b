"""What each ingredient gives on KuaiRand-Pure: one change to configs/kuairand.py at a time, on the eval part.

    python -m benchmarks.ablation --source=../shared/data/kuairand_pure --workdir=runs/ablation

prints a Markdown table: the mean over the seeds, and their standard deviation. Runs that are there already are not
repeated. `--only NAME NAME` makes some rows of it. `--select` is how the default was chosen:
other settings, learned without the last day of the training log and evaluated on it.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from configs.kuairand import config
from input_pipeline.prepare.sequential import prepare
from input_pipeline.recipes import kuairand
from tt_jax.schema import Feature
from tt_jax.training.loop import train


@dataclass(frozen=True)
class Change:
    """What differs from the default: configuration fields, by `group.field`, and features that are left out."""

    config: dict[str, Any] = field(default_factory=dict)
    drops: Callable[[Feature], bool] = lambda _: False


def _is_rate(f: Feature) -> bool:
    return f.name.endswith("_log_odds") or f.name in ("video_watches", "history_len")


CHANGES = {
    "default": Change(),
    "no histories": Change(drops=lambda f: f.kind == "sequence"),
    "no rates of the past": Change(drops=_is_rate),
    "neither of both": Change(drops=lambda f: f.kind == "sequence" or _is_rate(f)),
    "no user id": Change(drops=lambda f: f.name == "user_id"),
    "no ids of video, author and music": Change(
        drops=lambda f: f.name in ("video_id", "author_id", "music_id") or f.shares == "video_id"
    ),
    "no day": Change(drops=lambda f: f.name == "day"),
    "no cross layers": Change({"model.full_rank_layers": 0, "model.low_rank_layers": 0}),
    "one expert": Change({"model.experts": 1}),
    "float32": Change({"precision": "f32"}),
    "two epochs": Change({"train.epochs": 2.0}),
    "without the last day": Change({"data.train_splits": ("train",)}),
    "windows of 8 blocks": Change({"data.window": 8}),
    "batches of 1024": Change({"data.batch_size": 1024}),
}

BEFORE = {"data.window": 8, "data.batch_size": 1024}  # what stood when the settings were tried, each against it
SETTINGS = {
    "before": Change(BEFORE),
    "learning rate / 2": Change({**BEFORE, "optimizer.learning_rate": 5e-4}),
    "learning rate x 2": Change({**BEFORE, "optimizer.learning_rate": 2e-3}),
    "embedding rate / 2": Change({**BEFORE, "optimizer.embedding_learning_rate": 0.05}),
    "embedding rate x 2": Change({**BEFORE, "optimizer.embedding_learning_rate": 0.2}),
    "2 experts": Change({**BEFORE, "model.experts": 2}),
    "8 experts": Change({**BEFORE, "model.experts": 8}),
    "MLP of 256, 128": Change({**BEFORE, "model.mlp": (256, 128)}),
    "output of 64": Change({**BEFORE, "model.output_dim": 64}),
    "dropout of .1": Change({**BEFORE, "model.dropout": 0.1}),
    "ids hidden at .1": Change({**BEFORE, "model.id_dropout": 0.1}),
    "two epochs": Change({**BEFORE, "train.epochs": 2.0}),
    "windows of 4 blocks": Change({**BEFORE, "data.window": 4}),
    "one window": Change({**BEFORE, "data.window": 32}),
    "batches of 2048": Change({**BEFORE, "data.batch_size": 2048}),
    "batches of 512": Change({**BEFORE, "data.batch_size": 512}),
    "one window, learning rate x 2": Change({"data.batch_size": 1024, "optimizer.learning_rate": 2e-3}),
    "one window, batches of 256": Change({"data.batch_size": 256}),
    "default": Change(),
}


def _prepared(change: Change, source: Path, workdir: Path) -> Path:
    """The data with the features that the change leaves, prepared once for all changes that leave the same."""
    whole = kuairand.schema()
    schema = dataclasses.replace(whole, features=tuple(f for f in whole.features if not change.drops(f)))
    out = workdir / "prepared" / schema.fingerprint[:12]
    if not out.exists():
        prepare(schema, kuairand.read(source), out)
    return out


def _metrics(name: str, change: Change, seed: int, a: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Task -> metrics of a run."""
    run = config(select=a.select)
    fields = {"seed": seed, "data.path": str(_prepared(change, a.source, a.workdir)), **change.config}
    for key, value in fields.items():
        group, _, last = key.rpartition(".")
        changed = dataclasses.replace(getattr(run, group), **{last: value}) if group else value
        run = dataclasses.replace(run, **{group or last: changed})
    part = run.data.eval_split
    result = train(run, a.workdir / f"{part} {name}, seed {seed}".replace(" ", "-"), name=f"{name}, seed {seed}")
    if result.stopped_by or result.facts.report is None:
        raise SystemExit(f"{name}: stopped; the same command goes on from there")
    return result.facts.report["overall"]


def _row(name: str, runs: list[dict[str, dict[str, float]]]) -> str:
    """Of the table: mean and spread over the seeds."""
    cells = []
    for metric in ("auc", "logloss"):
        for task in runs[0]:
            values = np.array([run[task][metric] for run in runs])
            cells.append(f"{values.mean():.4f} ±{values.std(ddof=1) if len(values) > 1 else 0:.4f}")
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--source", type=Path, required=True, help="directory of the raw logs")
    p.add_argument("--workdir", type=Path, required=True, help="directory of the runs")
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--only", nargs="+", choices=[*CHANGES, *SETTINGS])
    p.add_argument("--select", action="store_true", help="settings, on the last day of the training log")
    a = p.parse_args()
    changes = SETTINGS if a.select else CHANGES
    if unknown := [name for name in a.only or () if name not in changes]:
        p.error(f"--only: {unknown[0]!r} is {'no setting of' if a.select else 'only for'} --select")
    tasks = list(kuairand.LABELS)
    print("| | " + " | ".join(f"{metric} {task}" for metric in ("AUC", "log loss") for task in tasks) + " |")
    print("|---" * (1 + 2 * len(tasks)) + "|")
    for name in a.only or changes:
        print(_row(name, [_metrics(name, changes[name], seed, a) for seed in range(a.seeds)]), flush=True)


if __name__ == "__main__":
    main()
