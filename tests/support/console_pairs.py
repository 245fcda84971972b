"""Scorers made in memory for the tests of the console: of any schema and kind of model, compiled as they are used."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa

from serving.index.ad_index import index_table
from serving.scorer import Scorer
from tests.support import tiny
from tt_jax.bundle.reader import Bundle, GoldenRow
from tt_jax.config import Config
from tt_jax.schema import Feature, Schema, Task

EVIL = "<img src=x onerror=document.title=1>"  # were it HTML, a picture would be in the page
ADS = 60


def evil_schema() -> Schema:
    """`tiny.SCHEMA` with names that would be HTML, and ads with such ids."""

    def renamed(f: Feature) -> Feature:
        if f.name in ("ad_id", "history"):
            return dataclasses.replace(f, dtype="string")
        if f.name == "country":
            return dataclasses.replace(f, vocabulary=(*tiny.COUNTRIES, EVIL))
        return dataclasses.replace(f, name=EVIL) if f.name == "user" else f

    tasks = (tiny.SCHEMA.tasks[0], Task(f"{EVIL} task", "converted"))
    features = tuple(map(renamed, tiny.SCHEMA.features))
    return dataclasses.replace(tiny.SCHEMA, name=EVIL, features=features, tasks=tasks, ad_id_dtype="string")


def in_memory(
    like: Path,
    schema: Schema = tiny.SCHEMA,
    config: Config = tiny.CONFIG,
    seed: int = 0,
    compiled: Scorer | None = None,
) -> Scorer:
    """A scorer of random weights, with the manifest of the bundle `like` as far as it fits."""
    params, tables = tiny.weights(seed, schema, config)
    params, tables = ({name: np.asarray(value) for name, value in part.items()} for part in (params, tables))
    manifest = dataclasses.replace(Bundle.load(like).manifest, fingerprint=f"{seed:064x}", tasks=schema.heads)
    rng = np.random.default_rng(1)
    known = {f.name for f in schema.features}
    golden = []
    for row in tiny.golden_rows(rng, 3):
        query = {name: value for name, value in row["query"].items() if name in known}
        if schema.feature("history").dtype == "string" and query["history"] is not None:
            query["history"] = [f"ad {i}, seen" for i in query["history"]]
        golden.append(GoldenRow(query, row["ad"], {}))
    bundle = Bundle(like, manifest, schema, config, params, tables, {}, tuple(golden))
    ads = tiny.ads_table(np.random.default_rng(2), ADS)
    if schema.feature("ad_id").dtype == "string":
        ids = pa.array([f"<b>{i}</b>" for i in ads.column("ad_id").to_pylist()])
        ads = ads.set_column(ads.column_names.index("ad_id"), "ad_id", ids)
    return Scorer(bundle, index_table(bundle, ads), max_k=20, warm=False, like=compiled)
