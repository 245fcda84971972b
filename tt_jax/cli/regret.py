"""`tt-jax regret`: what a model trained on AdWorld loses against the true probabilities, and what it could not help."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

EXAMPLE = """  tt-jax regret --workdir=runs/quickstart/standard --world=runs/quickstart --split=test_candidates

Two tables a scenario, each of the rows that it counts:
  expected  all rows of the split, over what users would do: kl = logloss - bayes_logloss
  outcomes  rows that were shown (of conversion: clicked): the log losses are of what users did, so they differ by kl
            plus the noise of the outcomes
bayes_logloss is the log loss of the true probabilities on the same rows as logloss. kl = inexpressible (by any
two-tower of this output_dim) + missed (by this one). The definition and its limits stand in
tt_jax/evaluation/adworld/regret.py. The probabilities are the calibrated ones where the run has a calibration."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=Path, required=True, help="directory of the run")
    parser.add_argument("--world", type=Path, required=True, help="world.json, or the directory that has it")
    parser.add_argument(
        "--split", default="test", help="train, eval or test: shown ads; test_candidates: shown or not (default test)"
    )
    parser.add_argument("--out", type=Path, help="write the figures there, as JSON")


def run(args: argparse.Namespace) -> int:
    """Prints two tables per scenario, of all rows and of those with an outcome; writes the JSON."""
    from input_pipeline.recipes.adworld import config_of
    from tt_jax.cli.table import figures_table
    from tt_jax.evaluation.adworld.regret import FIGURES
    from tt_jax.io.publish import write_json
    from tt_jax.training.trained import load_trained

    found = regret_of(load_trained(args.workdir), config_of(args.world), args.split)
    if args.out:
        write_json(args.out, found)
    for scenario, tasks in found["scenarios"].items():
        print(figures_table(f"{scenario}, expected", tasks, FIGURES, digits=5))
        print(figures_table(f"{scenario}, outcomes", {t: f["outcomes"] for t, f in tasks.items()}, FIGURES, digits=5))
    calibration = found["calibration"]
    shown = "calibrated by {method}, fitted on {split}".format(**calibration) if calibration else "not calibrated"
    print(
        f"in nats; expected: all {args.split} rows; outcomes: those shown, of conversion those clicked; probabilities"
        f" {shown}; inexpressible: by a dot product of {found['output_dim']} numbers, which has"
        f" room for rank {found['interaction_rank']} of the interaction"
    )
    return 0


def regret_of(trained: Any, world: Any, split: str) -> dict[str, Any]:
    """The `regret` of a `Trained` on a world, with its fingerprint and the `calibration` of its probabilities, if any.

    Raises `ValueError` if it is not of that world, or the world has no such split.
    """
    from input_pipeline.adworld.simulate import schema
    from input_pipeline.recipes.adworld import log_of
    from tt_jax.evaluation.adworld.regret import regret

    day, log = log_of(split)
    if trained.record.schema.features != schema(world).features:
        raise ValueError("the run was trained on another world: the features of its schema are not those of this one")
    output_dim, scenarios = trained.record.config.model.output_dim, trained.record.config.data.scenarios
    found = regret(world, day, log, predictor(trained), output_dim, scenarios)
    fitted = trained.calibration
    calibration = None if fitted is None else {"method": fitted.method, "split": fitted.split}
    return {**found, "split": split, "calibration": calibration, "fingerprint": trained.fingerprint}


def predictor(trained: Any) -> Callable[[Any], Mapping[str, Any]]:
    """Table of log rows -> head -> the probabilities of a `Trained`, calibrated if it has a calibration."""
    import numpy as np
    from scipy.special import expit

    from tt_jax.calibration.calibrate import calibrated_logits
    from tt_jax.evaluation.predict import make_predict
    from tt_jax.features.encoder import Encoder
    from tt_jax.models.scenario import query_scenarios

    schema, size = trained.record.schema, trained.record.config.data.eval_batch_size
    encoder, predict = Encoder(schema), make_predict(trained.model)

    def probabilities(rows: Any) -> Mapping[str, np.ndarray]:
        columns = dict(zip(rows.column_names, rows.columns, strict=True))
        arrays = encoder.encode(columns, outcomes=False).arrays
        found = []
        for first in range(0, len(rows), size):
            part = {name: array[first : first + size] for name, array in arrays.items()}
            spare = size - len(next(iter(part.values())))  # so that one program serves all
            padded = {name: np.pad(array, ((0, spare), (0, 0))) for name, array in part.items()}
            logits = np.asarray(predict(trained.params, trained.tables, padded))
            if trained.calibration is not None:
                scenario = np.asarray(query_scenarios(schema, padded["query_ids"]))
                logits = calibrated_logits(logits, scenario, schema, trained.calibration)
            found.append(logits[: size - spare])
        return dict(zip(schema.heads, expit(np.concatenate(found)).T, strict=True))

    return probabilities
