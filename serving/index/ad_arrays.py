"""Arrays of ads as files, and the hash of their bytes: what an index, a delta and a change set are stored by."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from tt_jax.schema import DType

VectorDType = Literal["f32", "bf16", "int8"]


DTYPES: dict[VectorDType, np.dtype] = {
    "f32": np.dtype(np.float32),
    "bf16": np.dtype(jnp.bfloat16),
    "int8": np.dtype(np.int8),
}


def save_vectors(directory: Path, vectors: np.ndarray) -> None:
    """Writes `vectors.npy`; bfloat16 as its uint16 bits, which NumPy can store."""
    np.save(directory / "vectors.npy", vectors.view(bits_dtype(vector_dtype(vectors))), allow_pickle=False)


def load_vectors(directory: Path, dtype: VectorDType) -> np.ndarray:
    """What `save_vectors` wrote. Raises OSError or ValueError."""
    return np.load(directory / "vectors.npy", allow_pickle=False).view(DTYPES[dtype])


def bits_dtype(dtype: VectorDType) -> np.dtype:
    """What `vectors.npy` has: a dtype that NumPy can store."""
    return np.dtype(np.uint16) if dtype == "bf16" else DTYPES[dtype]


def save_ids(directory: Path, name: str, ids: np.ndarray | list[str]) -> None:
    """Writes `<name>.json` of strings, `<name>.npy` of integers."""
    if isinstance(ids, list):
        (directory / f"{name}.json").write_text(json.dumps(ids), encoding="utf-8")
    else:
        np.save(directory / f"{name}.npy", ids, allow_pickle=False)


def load_ids(directory: Path, name: str, dtype: DType) -> np.ndarray | list[str]:
    """What `save_ids` wrote. Raises OSError or ValueError."""
    if dtype == "string":
        return json.loads((directory / f"{name}.json").read_text(encoding="utf-8"))
    return np.load(directory / f"{name}.npy", allow_pickle=False)


def vector_dtype(vectors: np.ndarray) -> VectorDType:
    """The name of their dtype, one of `DTYPES`."""
    return next(name for name, dtype in DTYPES.items() if dtype == vectors.dtype)


def content_id(*parts: np.ndarray | list[str], head: str) -> str:
    """SHA-256, hexadecimal, of a line of text and the bytes of arrays and strings."""
    digest = hashlib.sha256(f"{head}\n".encode())
    add_content(digest, *parts)
    return digest.hexdigest()


def add_content(digest: Any, *parts: np.ndarray | list[str]) -> None:
    """Adds the bytes of arrays and strings to the hash of a `content_id`, in this order, without dtypes and shapes."""
    for part in parts:
        array = np.frombuffer(json.dumps(part).encode(), np.uint8) if isinstance(part, list) else part
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
