"""Small bundles, and changes of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.support import tiny
from tt_jax.bundle.reader import Manifest
from tt_jax.bundle.writer import write_bundle
from tt_jax.config import Config, ModelConfig
from tt_jax.io.publish import describe_files, write_manifest
from tt_jax.schema import Feature, Schema, Task

SMALL = Schema(  # as little as a model can have: what is written does not matter, but that it is refused
    name="small",
    features=(
        Feature("user", "categorical", "query", dim=2, hash_size=5),
        Feature("ad", "categorical", "ad", dim=2, hash_size=5),
    ),
    tasks=(Task("click", "clicked"),),
    scenario="s",
    scenarios=("a",),
    ad_id="ad",
)
SMALL_CONFIG = Config(
    ModelConfig(experts=1, full_rank_layers=0, low_rank_layers=0, mlp=(), gate_hidden=1, output_dim=2), precision="f32"
)
METRICS = {"overall": {"click": {"auc": 0.75, "kl": None}}}


def write_small(out: Path, **changes: Any) -> str:
    params, tables = tiny.weights(schema=SMALL, config=SMALL_CONFIG)
    small = {"schema": SMALL, "config": SMALL_CONFIG, "params": params, "tables": tables, "platforms": ("cpu",)}
    return _write(out, **{**small, "golden_rows": [{"query": {"user": "u"}, "ad": {"ad": "x"}}], **changes})


def rewrite(root: Path, texts: dict[str, str], **changes: Any) -> None:
    """Puts files into a bundle, and a manifest that says so."""
    fields = json.loads((root / "manifest.json").read_text())
    fields.update({"format": "tt-jax bundle", "format_version": 2, **changes})
    for name, text in texts.items():
        (root / name).write_text(text)
    del fields["digest"], fields["files"]
    fields.update({name: tuple(fields[name]) for name in ("tasks", "stablehlo_platforms")})
    write_manifest(root, Manifest(**fields, files=describe_files(root)))


def _write(out: Path, **changes: Any) -> str:
    params, tables = tiny.weights()
    golden = tiny.golden_rows(np.random.default_rng(1), 4)
    given = {
        "schema": tiny.SCHEMA, "config": tiny.CONFIG, "params": params, "tables": tables, "metrics": METRICS,
        "golden_rows": golden,
    }  # fmt: skip
    return write_bundle(out, **{**given, **changes})
