"""The fingerprint of a model: what its answers depend on, in one hash. Metrics, bundles and ad indexes carry it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from tt_jax.calibration.maps import Calibration
from tt_jax.config import Config
from tt_jax.schema import Schema


def fingerprint(
    schema: Schema,
    config: Config,
    params: Mapping[str, Any],
    tables: Mapping[str, Any],
    calibration: Calibration | None = None,
) -> str:
    """SHA-256, hexadecimal, of the schema, the model part of the config and every parameter and table by sorted name;
    and of the calibration, if there is one: a model that is calibrated anew is another one.

    Arrays count with name, dtype, shape and little-endian bytes: the same weights give the same fingerprint anywhere.
    """
    digest = hashlib.sha256()
    digest.update(schema.to_json().encode())
    digest.update(json.dumps(dataclasses.asdict(config.model), sort_keys=True).encode())
    for group, arrays in (("params", params), ("tables", tables)):
        for name in sorted(arrays):
            array = np.ascontiguousarray(np.asarray(arrays[name]))
            array = array.astype(array.dtype.newbyteorder("<"), copy=False)
            digest.update(f"\n{group} {name} {array.dtype.name} {array.shape}\n".encode())
            digest.update(array.reshape(-1).view(np.uint8).data)
    if calibration is not None:
        digest.update(f"\ncalibration {calibration.to_json()}".encode())
    return digest.hexdigest()
