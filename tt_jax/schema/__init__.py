"""The schema: what a row of an ad log means. See `tt_jax.schema.schema`."""

from tt_jax.schema.attribute import MAX_SET, AdAttribute, RequestValue
from tt_jax.schema.feature import (
    ID_KINDS,
    MAX_TABLE_ROWS,
    MISSING_ID,
    PAD_ID,
    TOWERS,
    UNKNOWN_ID,
    WAYS,
    DType,
    Feature,
    Kind,
    SchemaError,
    Task,
    Tower,
    Transform,
)
from tt_jax.schema.schema import Layout, Schema, array_specs

__all__ = [
    "ID_KINDS",
    "MAX_SET",
    "MAX_TABLE_ROWS",
    "MISSING_ID",
    "PAD_ID",
    "TOWERS",
    "UNKNOWN_ID",
    "WAYS",
    "AdAttribute",
    "DType",
    "Feature",
    "Kind",
    "Layout",
    "RequestValue",
    "Schema",
    "SchemaError",
    "Task",
    "Tower",
    "Transform",
    "array_specs",
]  # fmt: skip
