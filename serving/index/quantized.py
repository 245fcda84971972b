"""Vectors in the dtype that an index stores. int8: D whole numbers in -127..127, then the 4 bytes of a float32 scale.

The scale is of an ad and a task; number times scale is within half a scale of what it stands for. So an int8 vector is
one array `[..., D + 4]`, which is stored, hashed, changed and moved as any other.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

SCALE_BYTES = 4


def width(dim: int, dtype: np.dtype) -> int:
    """Of a stored vector of D numbers."""
    return dim + SCALE_BYTES if dtype == np.int8 else dim


def stored(vectors: Array, dtype: np.dtype) -> Array:
    """float32 vectors `[..., D]` as they are stored, `[..., width(D)]`."""
    if dtype != np.int8:
        return vectors.astype(dtype)
    scale = jnp.max(jnp.abs(vectors), axis=-1, keepdims=True) / 127
    numbers = jnp.round(vectors / jnp.where(scale == 0, 1, scale)).astype(jnp.int8)
    return jnp.concatenate([numbers, lax.bitcast_convert_type(scale[..., 0], jnp.int8)], axis=-1)


def numbers_and_scales(rows: Array) -> tuple[Array, Array]:
    """float32 `[..., D]` and `[...]` of stored int8 vectors; their product is what they stand for."""
    numbers, scales = rows[..., :-SCALE_BYTES], rows[..., -SCALE_BYTES:]
    return numbers.astype(jnp.float32), lax.bitcast_convert_type(scales, jnp.float32)
