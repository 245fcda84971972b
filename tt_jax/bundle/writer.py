"""Writes a bundle (see `tt_jax.bundle.reader` for what is in it): weights, schema, config, metrics, golden rows,
StableHLO.

Weights and config are the source of truth. The StableHLO functions serve where this package is not installed, on CPU,
CUDA and TPU, for as long as JAX promises to run them: `tt_jax.bundle.stablehlo` says what they compute.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from tt_jax.bundle.stablehlo import stablehlo_functions
from tt_jax.calibration.maps import Calibration
from tt_jax.config import Config
from tt_jax.io.abandoned import quiet_about_abandoned
from tt_jax.io.publish import describe_files, published_directory, write_manifest
from tt_jax.models.two_tower import TwoTower, require_two_towers
from tt_jax.schema import TOWERS, Schema
from tt_jax.utility import Utility

PLATFORMS = ("cpu", "cuda", "tpu")
_SOURCE_PATHS = "jax_hlo_source_file_canonicalization_regex"  # what it matches of a path is left out
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
    platforms: Sequence[str] = PLATFORMS,
) -> str:
    """Writes a bundle and returns its fingerprint.

    Args:
      out: a path that does not exist yet; it appears complete or not at all.
      params, tables: float32 arrays, as `TwoTower.init` gives them.
      metrics: the evaluation report.
      golden_rows: at least one raw `{"query": {feature: value}, "ad": {feature: value}}`, JSON values.
      calibration: of these weights; None = the probabilities are the model's own.
      learned: the prepared sets that they have learned, ready for JSON; empty = not known.
      platforms: of `PLATFORMS`, those that the StableHLO functions will run on; the bundle itself runs on all.

    Raises ValueError if `out` exists, an array is not as the model wants it, a golden row does not fit the schema, or
    the model is a heavy ranker.
    """
    require_two_towers(config.model)
    arrays = {"params": _on_host(params), "tables": _on_host(tables)}
    model = TwoTower(schema, config.model, "f32")
    check_arrays(model, arrays["params"], arrays["tables"])
    utility = Utility.parse(config.utility or schema.heads[0], schema.heads, schema.utility_names)
    mark = fingerprint(schema, config, arrays["params"], arrays["tables"], calibration)
    golden = _golden(model, arrays["params"], arrays["tables"], golden_rows, calibration)
    with published_directory(out) as directory:
        (directory / "schema.json").write_text(schema.to_json(), encoding="utf-8")
        (directory / "config.json").write_text(config.to_json(), encoding="utf-8")
        _write_json(directory / "metrics.json", dict(metrics))
        if calibration is not None:
            (directory / CALIBRATION).write_text(calibration.to_json(), encoding="utf-8")
        if learned:
            _write_json(directory / LEARNED, list(learned))
        _write_json(directory / "golden.json", golden)
        _write_weights(directory, arrays)
        version = _write_stablehlo(directory / "stablehlo", model, utility, calibration, platforms)
        np.savez(directory / "stablehlo" / "golden.npz", **_encoded_golden(schema, golden))
        write_manifest(directory, _manifest(directory, mark, schema, utility, version, platforms))
    return mark


def _on_host(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(a) for name, a in arrays.items()}


def _manifest(
    directory: Path, mark: str, schema: Schema, utility: Utility, stablehlo_version: int, platforms: Sequence[str]
) -> Manifest:
    """The manifest of what has been written so far, which is all."""
    now = datetime.datetime.now(datetime.UTC)
    return Manifest(
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
        stablehlo_version=stablehlo_version,
        stablehlo_expires=(now + STABLEHLO_LIFETIME).date().isoformat(),
        stablehlo_platforms=tuple(platforms),
        files=describe_files(directory),
    )


def _write_weights(directory: Path, arrays: dict[str, dict[str, np.ndarray]]) -> None:
    """The arrays of `params` and `tables`, by NumPy and by Orbax."""
    named: dict[str, Any] = {f"{group}/{name}": a for group, of in arrays.items() for name, a in of.items()}
    np.savez(directory / WEIGHTS, **named)
    _write_orbax(directory / "orbax", arrays)


def _write_orbax(path: Path, arrays: dict[str, dict[str, np.ndarray]]) -> None:
    import orbax.checkpoint as ocp  # slow to import

    with quiet_about_abandoned(), ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(path.resolve(), arrays)
    marker = path / "commit_success.txt"  # Orbax asks whether it is there; in it stands the path on this machine
    if marker.exists():
        marker.write_text("Checkpoint commit was successful\n")


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


def _write_stablehlo(
    path: Path, model: TwoTower, utility: Utility, calibration: Calibration | None, platforms: Sequence[str]
) -> int:
    """Writes the functions; returns the version of their calling convention."""
    path.mkdir()
    version = 0
    with _without_source_paths():
        for name, exportable in stablehlo_functions(model, utility, calibration).items():
            exported = jax.export.export(jax.jit(exportable.function), platforms=platforms)(*exportable.arguments)
            (path / f"{name}.bin").write_bytes(exported.serialize())
            version = exported.calling_convention_version
    return version


@contextmanager
def _without_source_paths() -> Iterator[None]:
    """What JAX exports tells for each operation the absolute path of its source, which is of this machine only."""
    before = getattr(jax.config, _SOURCE_PATHS)
    jax.config.update(_SOURCE_PATHS, ".*")
    try:
        yield
    finally:
        jax.config.update(_SOURCE_PATHS, before)
