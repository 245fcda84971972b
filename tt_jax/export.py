"""Writes a bundle (see `tt_jax.bundle` for what is in it): weights, schema, config, metrics, golden rows, StableHLO.

Weights and config are the source of truth. The StableHLO artefacts serve where this package is not installed, on CPU,
CUDA and TPU, for as long as JAX promises to run them. Parameters are their arguments; T are the tasks with a head:

    query_tower, ad_tower   (params, tables, ids int32 [b, S], floats f32 [b, F]) -> f32 [b, T, D]
    scorer                  (queries f32 [b, T, D], ads f32 [n, T, D], bias f32 [T], bids f32 [n], valid bool [n],
                             scenarios int32 [b], of the calibration: an index into the schema's; else, pooled)
                            -> positions int32 [b, 100], utility f32 [b, 100] (-inf past the valid ads),
                               probabilities f32 [b, 100, T]; n >= 100: pad with ads that are not valid
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
import jax.numpy as jnp
import numpy as np
from jax import Array

from tt_jax.bundle import CALIBRATION, FORMAT, FORMAT_VERSION, Manifest, check_arrays, golden_probabilities
from tt_jax.calibration import Calibration, Curves
from tt_jax.config import Config
from tt_jax.fingerprint import fingerprint
from tt_jax.models.two_tower import TwoTower, require_two_towers
from tt_jax.publish import describe_files, published_directory, write_manifest
from tt_jax.schema import TOWERS, Schema, Tower
from tt_jax.utility import Utility

PLATFORMS = ("cpu", "cuda", "tpu")
STABLEHLO_LIFETIME = datetime.timedelta(days=180)  # what jax.export promises to a newer JAX
SCORER_K = 100


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
) -> str:
    """Writes a bundle and returns its fingerprint.

    Args:
      out: a path that does not exist yet; it appears complete or not at all.
      params, tables: float32 arrays, as `TwoTower.init` gives them.
      metrics: the evaluation report.
      golden_rows: at least one raw `{"query": {feature: value}, "ad": {feature: value}}`, JSON values.
      calibration: of these weights; None = the probabilities are the model's own.

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
        _write_json(directory / "golden.json", golden)
        _write_weights(directory / "weights", params, tables)
        version = _write_stablehlo(directory / "stablehlo", model, utility, calibration)
        now = datetime.datetime.now(datetime.UTC)
        manifest = Manifest(
            format=FORMAT,
            format_version=FORMAT_VERSION,
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


def _write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def _write_weights(path: Path, params: dict[str, Any], tables: dict[str, Any]) -> None:
    import orbax.checkpoint as ocp  # slow to import

    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(path.resolve(), {"params": params, "tables": tables})


def _write_stablehlo(path: Path, model: TwoTower, utility: Utility, calibration: Calibration | None) -> int:
    """Writes the artefacts; returns their calling convention version."""
    path.mkdir()
    artefacts = {f"{tower}_tower": _export_tower(model, tower) for tower in TOWERS}
    artefacts["scorer"] = _export_scorer(model, utility, calibration)
    for name, exported in artefacts.items():
        (path / f"{name}.bin").write_bytes(exported.serialize())
    return artefacts["scorer"].calling_convention_version


def _export_tower(model: TwoTower, tower: Tower) -> jax.export.Exported:
    layout = model.schema.layout[tower]
    (b,) = jax.export.symbolic_shape("b")

    def embed(params: Any, tables: Any, ids: Array, floats: Array) -> Array:
        return model.embed(params, tables, tower, ids, floats)

    params, tables = model.shapes()
    ids = jax.ShapeDtypeStruct((b, layout.id_slots), jnp.int32)
    floats = jax.ShapeDtypeStruct((b, layout.float_width), jnp.float32)
    return jax.export.export(jax.jit(embed), platforms=PLATFORMS)(params, tables, ids, floats)


def _export_scorer(model: TwoTower, utility: Utility, calibration: Calibration | None) -> jax.export.Exported:
    tasks, width = len(model.schema.heads), model.config.output_dim
    b, n = jax.export.symbolic_shape("b,n", constraints=[f"n>={SCORER_K}"])

    curves = calibration.curves(model.schema) if calibration else Curves.identity(model.schema)  # small: constants
    pooled = len(model.schema.scenarios)

    def score(
        queries: Array, ads: Array, bias: Array, bids: Array, valid: Array, scenarios: Array
    ) -> tuple[Array, Array, Array]:
        known = (scenarios >= 0) & (scenarios < pooled)
        of_query = curves.at(jnp.where(known, scenarios, pooled)).per_ad()
        logits = jnp.einsum("btd,ntd->bnt", queries, ads, precision="highest") + bias
        probabilities = jax.nn.sigmoid(of_query.apply(logits))
        named = {task: probabilities[:, :, t] for t, task in enumerate(utility.tasks)}
        value = jnp.broadcast_to(utility(named, bids), probabilities.shape[:2])
        ranked = jnp.where(valid & ~jnp.isnan(value), value, -jnp.inf)
        top, positions = jax.lax.top_k(ranked, SCORER_K)
        return positions, top, jnp.take_along_axis(probabilities, positions[:, :, None], axis=1)

    shapes = ((b, tasks, width), (n, tasks, width), (tasks,), (n,))
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.export.export(jax.jit(score), platforms=PLATFORMS)(
        *arguments, jax.ShapeDtypeStruct((n,), jnp.bool_), jax.ShapeDtypeStruct((b,), jnp.int32)
    )
