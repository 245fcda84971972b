"""Writes a bundle (see `tt_jax.bundle.reader` for what is in it): weights, schema, config, metrics, golden rows,
StableHLO.

Weights and config are the source of truth. The StableHLO artefacts serve where this package is not installed, on CPU,
CUDA and TPU, for as long as JAX promises to run them: `tt_jax.bundle.stablehlo` says what they compute.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tt_jax.bundle.fingerprint import fingerprint
from tt_jax.bundle.reader import (
    CALIBRATION,
    FORMAT,
    LEARNED,
    WEIGHTS,
    Manifest,
    check_arrays,
    golden_arrays,
    golden_probabilities,
)
from tt_jax.bundle.stablehlo import artefacts
from tt_jax.calibration.maps import Calibration
from tt_jax.config import Config
from tt_jax.io.publish import describe_files, published_directory, write_manifest
from tt_jax.models.two_tower import TwoTower, require_two_towers
from tt_jax.schema import TOWERS, Schema
from tt_jax.utility import Utility

PLATFORMS = ("cpu", "cuda", "tpu")
STABLEHLO_LIFETIME = datetime.timedelta(days=180)  # what jax.export promises to a newer JAX


def write_bundle(
    out: str | os.PathLike[str],
    *,
    schema: Schema,
    config: Config,
    params: Mapping[str, Any],
    tables: Mapping[str, Any],
    metrics: Mapping[str, Any],
    golden_rows: Sequence[Mapping[str, Any]],
    calibration: Calibration | None = None,
    learned: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Writes a bundle and returns its fingerprint.

    Args:
      out: a path that does not exist yet; it appears complete or not at all.
      params, tables: float32 arrays, as `TwoTower.init` gives them.
      metrics: the evaluation report.
      golden_rows: at least one raw `{"query": {feature: value}, "ad": {feature: value}}`, JSON values.
      calibration: of these weights; None = the probabilities are the model's own.
      learned: the prepared sets that they have learned, ready for JSON; empty = not known.

    Raises ValueError if `out` exists, an array is not as the model wants it, a golden row does not fit the schema, or
    the model is a heavy ranker.
    """
    require_two_towers(config.model)
    params = {name: np.asarray(a) for name, a in params.items()}
    tables = {name: np.asarray(a) for name, a in tables.items()}
    model = TwoTower(schema, config.model, "f32")
    check_arrays(model, params, tables)
    utility = Utility.parse(config.utility or schema.heads[0], schema.heads)
    mark = fingerprint(schema, config, params, tables, calibration)
    golden = _golden(model, params, tables, golden_rows, calibration)
    with published_directory(out) as directory:
        (directory / "schema.json").write_text(schema.to_json(), encoding="utf-8")
        (directory / "config.json").write_text(config.to_json(), encoding="utf-8")
        _write_json(directory / "metrics.json", dict(metrics))
        if calibration is not None:
            (directory / CALIBRATION).write_text(calibration.to_json(), encoding="utf-8")
        if learned:
            _write_json(directory / LEARNED, list(learned))
        _write_json(directory / "golden.json", golden)
        groups = {"params": params, "tables": tables}
        arrays: dict[str, Any] = {f"{group}/{n}": a for group, named in groups.items() for n, a in named.items()}
        np.savez(directory / WEIGHTS, **arrays)
        _write_orbax(directory / "orbax", groups)
        version = _write_stablehlo(directory / "stablehlo", model, utility, calibration)
        np.savez(directory / "stablehlo" / "golden.npz", **_encoded_golden(schema, golden))
        now = datetime.datetime.now(datetime.UTC)
        manifest = Manifest(
            **FORMAT.stamp,
            fingerprint=mark,
            created=now.isoformat(timespec="seconds"),
            python=platform.python_version(),
            jax=importlib.metadata.version("jax"),
            flax=importlib.metadata.version("flax"),
            orbax=importlib.metadata.version("orbax-checkpoint"),
            tt_jax=importlib.metadata.version("tt-jax"),
            tasks=schema.heads,
            utility=utility.expression,
            stablehlo_version=version,
            stablehlo_expires=(now + STABLEHLO_LIFETIME).date().isoformat(),
            stablehlo_platforms=PLATFORMS,
            files=describe_files(directory),
        )
        write_manifest(directory, manifest)
    return mark


def _write_orbax(path: Path, arrays: dict[str, dict[str, Any]]) -> None:
    import orbax.checkpoint as ocp  # slow to import

    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(path.resolve(), arrays)


def _golden(
    model: TwoTower,
    params: dict[str, Any],
    tables: dict[str, Any],
    rows: Sequence[Mapping[str, Any]],
    calibration: Calibration | None,
) -> list[dict[str, Any]]:
    """The rows with their probabilities. A feature that the schema does not name is an error."""
    if not rows:
        raise ValueError("golden_rows: expected at least one row")
    for i, row in enumerate(rows):
        for tower in TOWERS:
            unknown = set(row[tower]) - {f.name for f in model.schema.tower_features(tower)}
            if unknown:
                raise ValueError(f"golden_rows[{i}]: {min(unknown)!r} is no feature of the {tower} tower")
    probabilities = golden_probabilities(model, params, tables, rows, calibration).tolist()
    return [
        {
            **{tower: dict(row[tower]) for tower in TOWERS},
            "probabilities": dict(zip(model.schema.heads, p, strict=True)),
        }
        for row, p in zip(rows, probabilities, strict=True)
    ]


def _encoded_golden(schema: Schema, golden: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Encoded golden rows and their probabilities `[n, T]`, for those who have no encoder."""
    probabilities = [[row["probabilities"][head] for head in schema.heads] for row in golden]
    return {**golden_arrays(schema, golden), "probabilities": np.array(probabilities, np.float32)}


def _write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def _write_stablehlo(path: Path, model: TwoTower, utility: Utility, calibration: Calibration | None) -> int:
    """Writes the artefacts; returns their calling convention version."""
    path.mkdir()
    version = 0
    for name, artefact in artefacts(model, utility, calibration).items():
        exported = jax.export.export(jax.jit(artefact.function), platforms=PLATFORMS)(*artefact.arguments)
        (path / f"{name}.bin").write_bytes(exported.serialize())
        version = exported.calling_convention_version
    return version
