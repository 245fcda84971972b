"""Reads a bundle: everything a service needs to know of a trained model, in one directory, each byte verified.

    manifest.json                     what it is, and size and SHA-256 of every other file (`Manifest`)
    schema.json config.json           `Schema`, `Config`
    metrics.json                      the evaluation report of the weights
    calibration.json                  `Calibration`, where the model has one
    learned.json                      the prepared sets that were learned, in order; not read
    golden.json                       raw rows and their float32 probabilities, replayed wherever the bundle is loaded
    weights.npz                       arrays `params/NAME` and `tables/NAME`, as they are: neither pickled nor packed
    orbax/                            the same as an Orbax checkpoint, for who goes on training; services do not read it
    stablehlo/{query_tower,ad_tower,scenarios,scorer}.bin   functions of `jax.export`, see `tt_jax.bundle.stablehlo`
    stablehlo/golden.npz              the golden rows encoded, and their probabilities [n, T]

Nothing in it can run code: JSON under strict schemas, arrays, StableHLO. `tt_jax.bundle.writer` writes it.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np

from tt_jax.bundle.fingerprint import fingerprint
from tt_jax.calibration.maps import Calibration
from tt_jax.config import Config
from tt_jax.features.encoder import Encoder
from tt_jax.io.publish import Format, read_published
from tt_jax.io.verify import FileEntry
from tt_jax.models.dense import MatmulPrecision, resolve_precision
from tt_jax.models.scenario import query_scenarios
from tt_jax.models.two_tower import TwoTower, require_two_towers
from tt_jax.schema import TOWERS, Schema

FORMAT = Format("tt-jax bundle", (2,))
CALIBRATION = "calibration.json"
LEARNED = "learned.json"
WEIGHTS = "weights.npz"
# Largest difference of a probability: float32 sums in another order; bfloat16 inputs (8 bits) through a dozen layers.
GOLDEN_TOLERANCE: dict[MatmulPrecision, float] = {"f32": 1e-4, "bf16": 5e-2}


class BundleError(ValueError):
    """A bundle that must not be used. The message names the file and what is wrong with it."""


@dataclass(frozen=True)
class Manifest:
    """`manifest.json` of a bundle.

    Attributes:
      format, format_version: see `FORMAT`.
      fingerprint: of the model, see `tt_jax.bundle.fingerprint`.
      created: UTC, ISO 8601.
      python, jax, flax, orbax, tt_jax: versions that wrote the bundle.
      tasks: names of those with a head, `Schema.heads`, in the order of the model's outputs.
      utility: the expression that ads are ranked by.
      stablehlo_version: calling convention of the StableHLO functions.
      stablehlo_expires: date until which a newer JAX promises to run them.
      stablehlo_platforms: platforms that they run on.
      files: every other file.
    """

    FORMAT: ClassVar[Format] = FORMAT
    format: str
    format_version: int
    fingerprint: str
    created: str
    python: str
    jax: str
    flax: str
    orbax: str
    tt_jax: str
    tasks: tuple[str, ...]
    utility: str
    stablehlo_version: int
    stablehlo_expires: str
    stablehlo_platforms: tuple[str, ...]
    files: tuple[FileEntry, ...]


@dataclass(frozen=True)
class GoldenRow:
    """A raw query and ad (feature -> JSON value) and the probabilities, by head, that the model gave for them."""

    query: dict[str, Any]
    ad: dict[str, Any]
    probabilities: dict[str, float]


@dataclass(frozen=True, eq=False)
class Bundle:
    """A verified bundle. `params` and `tables` are NumPy arrays, named and shaped as `TwoTower.init` gives them."""

    path: Path
    manifest: Manifest
    schema: Schema
    config: Config
    params: dict[str, np.ndarray]
    tables: dict[str, np.ndarray]
    metrics: dict[str, Any]
    golden: tuple[GoldenRow, ...]
    calibration: Calibration | None = None

    @property
    def fingerprint(self) -> str:
        """Of the model, hexadecimal."""
        return self.manifest.fingerprint

    @cached_property
    def model(self) -> TwoTower:
        """The model, in the precision that the config sets for this platform."""
        precision = resolve_precision(self.config.precision, jax.default_backend())
        return TwoTower(self.schema, self.config.model, precision)

    @staticmethod
    def load(path: str | Path) -> Bundle:
        """Reads a bundle. Raises `BundleError` unless every file is exactly as it was written."""
        path = Path(path)
        manifest = read_published(path, Manifest, BundleError)
        schema = _parse(path / "schema.json", Schema.from_json)
        config = _parse(path / "config.json", _served_config)
        if manifest.tasks != schema.heads:
            raise BundleError(f"{path}: tasks {manifest.tasks} in the manifest, {schema.heads} in the schema")
        model = TwoTower(schema, config.model, "f32")
        params, tables = _read_weights(path / WEIGHTS, model)
        calibration = None
        if (path / CALIBRATION).exists():
            calibration = _parse(path / CALIBRATION, lambda text: Calibration.from_json(text, schema))
            model_mark = fingerprint(schema, config, params, tables)
            if calibration.model != model_mark:
                raise BundleError(f"{path / CALIBRATION}: fitted to the model {calibration.model}, not {model_mark}")
        found = fingerprint(schema, config, params, tables, calibration)
        if found != manifest.fingerprint:
            raise BundleError(f"{path}: fingerprint {manifest.fingerprint} in the manifest, {found} of its content")
        golden = _parse(path / "golden.json", lambda text: _golden(text, schema))
        metrics = _parse(path / "metrics.json", _object)
        return Bundle(path, manifest, schema, config, params, tables, metrics, golden, calibration)

    def replay_golden(self) -> float:
        """Scores the golden rows with `model` and returns the largest difference of a probability.

        Raises `BundleError` naming the row and the task if it exceeds `GOLDEN_TOLERANCE`.
        """
        rows = [{"query": g.query, "ad": g.ad} for g in self.golden]
        found = golden_probabilities(self.model, self.params, self.tables, rows, self.calibration)
        expected = np.array([[g.probabilities[t] for t in self.schema.heads] for g in self.golden])
        difference = np.abs(found - expected)
        row, task = np.unravel_index(int(difference.argmax()), difference.shape)
        worst, allowed = float(difference[row, task]), GOLDEN_TOLERANCE[self.model.precision]
        if not worst <= allowed:
            raise BundleError(
                f"{self.path / 'golden.json'}: row {row}, task {self.schema.heads[task]!r}: expected the "
                f"probability {expected[row, task]:.6f} within {allowed} in {self.model.precision}, "
                f"got {found[row, task]:.6f}"
            )
        return worst


# Compiled once for equal models: a service that loads one index after the other replays the same rows each time.
_predict = jax.jit(TwoTower.predict, static_argnums=0)


def golden_probabilities(
    model: TwoTower,
    params: Mapping[str, Any],
    tables: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    calibration: Calibration | None = None,
) -> np.ndarray:
    """Probabilities float32 `[n, T]` of raw `{"query": {...}, "ad": {...}}` rows, calibrated with a calibration.

    An absent feature is missing.
    """
    arrays = golden_arrays(model.schema, rows)
    logits = _predict(model, dict(params), dict(tables), arrays)
    if calibration is not None:
        curves = calibration.curves(model.schema).at(query_scenarios(model.schema, arrays["query_ids"]))
        logits = curves.apply(logits)
    return np.asarray(jax.nn.sigmoid(logits))


def golden_arrays(schema: Schema, rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Raw `{"query": {...}, "ad": {...}}` rows encoded: ids and floats of both towers."""
    columns = {
        f.name: [row[tower].get(f.name) for row in rows] for tower in TOWERS for f in schema.tower_features(tower)
    }
    return Encoder(schema).encode(columns, outcomes=False).arrays


def check_arrays(model: TwoTower, params: Mapping[str, Any], tables: Mapping[str, Any]) -> None:
    """Raises `BundleError` naming the first array that is not as the model wants it."""
    for group, expected, found in zip(("params", "tables"), model.shapes(), (params, tables), strict=True):
        for name in sorted(expected.keys() ^ found.keys()):
            raise BundleError(f"{group} {name!r}: {'missing' if name in expected else 'unknown to the model'}")
        for name, array in expected.items():
            wanted, got = (array.shape, np.dtype(array.dtype)), (found[name].shape, np.dtype(found[name].dtype))
            if wanted != got:
                raise BundleError(f"{group} {name!r}: expected {wanted[1]} {wanted[0]}, got {got[1]} {got[0]}")


def _read_weights(path: Path, model: TwoTower) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    groups: dict[str, dict[str, np.ndarray]] = {"params": {}, "tables": {}}
    try:
        with zipfile.ZipFile(path) as packed:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in packed.infolist()):
                raise BundleError("packed arrays; expected them as they are")  # a few bytes may unpack to any size
        with path.open("rb") as f, np.load(f, allow_pickle=False) as arrays:
            for key in arrays.files:
                group, _, name = key.partition("/")
                if group not in groups:
                    raise BundleError(f"{key!r}: expected the arrays of 'params' and 'tables'")
                groups[group][name] = arrays[key]
        check_arrays(model, groups["params"], groups["tables"])
    except BundleError as e:
        raise BundleError(f"{path}: {e}") from None
    except Exception as e:  # zipfile, zlib, tokenize and NumPy raise every kind for a damaged file
        raise BundleError(f"{path}: NumPy cannot read it: {e}") from e
    return groups["params"], groups["tables"]


def _parse(path: Path, parse: Any) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise BundleError(f"{path}: {e}") from None


def _served_config(text: str) -> Config:
    config = Config.from_json(text)
    require_two_towers(config.model)
    return config


def _object(text: str) -> dict[str, Any]:
    data = json.loads(text)
    if not isinstance(data, dict):
        raise ValueError(f"expected an object, got {type(data).__name__}")
    return data


def _golden(text: str, schema: Schema) -> tuple[GoldenRow, ...]:
    data = json.loads(text)
    if not isinstance(data, list) or not data:
        raise ValueError("expected a list of at least one row")
    keys = {"query", "ad", "probabilities"}
    for i, row in enumerate(data):
        if not isinstance(row, dict) or row.keys() != keys or not all(isinstance(v, dict) for v in row.values()):
            raise ValueError(f"row {i}: expected an object of the objects {', '.join(sorted(keys))}")
        probabilities = row["probabilities"]
        if set(probabilities) != set(schema.heads):
            raise ValueError(f"row {i}: expected probabilities of {', '.join(schema.heads)}")
        if not all(type(p) in (int, float) and 0 <= p <= 1 for p in probabilities.values()):
            raise ValueError(f"row {i}: expected probabilities within 0..1, got {probabilities}")
    return tuple(GoldenRow(**row) for row in data)
