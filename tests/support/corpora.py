"""Corpora of ads, and their bundle, changed."""

from __future__ import annotations

import dataclasses
from typing import Any

import pyarrow as pa

from tt_jax.bundle.reader import Bundle


def with_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values))


def with_string_ids(bundle: Bundle) -> Bundle:
    """Ads named by a column that is no feature."""
    schema = dataclasses.replace(bundle.schema, ad_id="name", ad_id_dtype="string")
    return dataclasses.replace(bundle, schema=schema)
