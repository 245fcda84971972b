"""Encoding: nanoseconds a row for each kind of feature, of a log (Arrow) and of the queries of one request (Python).

    python -m benchmarks.encode [--rows 65536 --runs 5]

One feature at a time in a query tower; a bag and a sequence have ten ids a row, of 10^5 numbers or 10^3 texts. Prints
JSON lines, the medians of the runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import numpy as np
import pyarrow as pa

from tt_jax.features.encoder import Encoder
from tt_jax.schema import Feature, Schema, Task

SLOTS, DIM, IDS = 10, 64, 100_000
_WORDS = tuple(f"word {i}" for i in range(1000))
FEATURES: dict[str, tuple[Feature, int]] = {  # what it is -> feature, values a row
    "categorical, hashed integers": (Feature("f", "categorical", "query", "int", hash_size=2**20), 1),
    "categorical, hashed texts": (Feature("f", "categorical", "query", hash_size=2**20), 1),
    "categorical, a vocabulary of 1,000 texts": (Feature("f", "categorical", "query", vocabulary=_WORDS), 1),
    "bag of 10 hashed integers": (Feature("f", "bag", "query", "int", hash_size=2**20, max_length=SLOTS), SLOTS),
    "bag of 10 hashed texts": (Feature("f", "bag", "query", hash_size=2**20, max_length=SLOTS), SLOTS),
    "sequence of 10 hashed integers": (
        Feature("f", "sequence", "query", "int", hash_size=2**20, max_length=SLOTS),
        SLOTS,
    ),
    "numeric": (Feature("f", "numeric", "query", indicator=True), 1),
    "numeric, log1p": (Feature("f", "numeric", "query", transform="log1p"), 1),
    "dense of 64": (Feature("f", "dense", "query", dim=DIM), DIM),
}


def _values(feature: Feature, width: int, rows: int) -> pa.Array:
    rng = np.random.default_rng(0)
    if not feature.is_ids:
        flat = pa.array(rng.normal(size=rows * width).astype(np.float32))
    elif feature.dtype == "int":
        flat = pa.array(rng.integers(0, IDS, rows * width))
    else:
        flat = pa.array(_WORDS).take(pa.array(rng.integers(0, len(_WORDS), rows * width)))
    return flat if width == 1 else pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype=np.int32) * width), flat)


def _seconds(encoder: Encoder, column: Any, times: int) -> float:
    """Of one encoding."""
    start = time.perf_counter()
    for _ in range(times):
        encoder.encode({"f": column}, ("query",), outcomes=False)
    return (time.perf_counter() - start) / times


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rows", type=int, default=65_536)
    p.add_argument("--runs", type=int, default=5)
    a = p.parse_args()
    ad, task = Feature("ad", "categorical", "ad", "int", hash_size=10), (Task("click", "click"),)
    for name, (feature, width) in FEATURES.items():
        encoder = Encoder(Schema("encode", (feature, ad), task, "tab", ("home",), ad_id="ad"))
        log = _values(feature, width, a.rows)
        query = log.slice(0, 1).to_pylist()
        _seconds(encoder, log, 1)  # imports what Arrow columns need
        runs = [(_seconds(encoder, log, 1), _seconds(encoder, query, 200)) for _ in range(a.runs)]
        of_log, of_query = (statistics.median(found) for found in zip(*runs, strict=True))
        found = {
            "feature": name,
            "ns_per_row": round(of_log / a.rows * 1e9, 1),
            "us_per_query": round(of_query * 1e6, 1),
        }
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
