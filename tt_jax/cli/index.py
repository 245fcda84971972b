"""`tt-jax index`: embeds a corpus of ads."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Literal

EXAMPLE = "  tt-jax index --bundle=bundles/kuairand --ads=prepared/kuairand/ads.parquet --out=indexes/kuairand"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", type=Path, required=True, help="directory that `tt-jax export` wrote")
    parser.add_argument("--ads", type=Path, required=True, help="Parquet: the ad features, the ad's id, bid, eligible")
    parser.add_argument("--out", type=Path, required=True, help="directory to create")
    parser.add_argument("--dtype", choices=("f32", "bf16"), default="f32", help="of the stored vectors (default f32)")


def run(args: argparse.Namespace) -> int:
    """Writes the index; prints its size."""
    print(f"{build(args.bundle, args.ads, args.out, args.dtype):,} ads embedded to {args.out}", file=sys.stderr)
    return 0


def build(bundle: Path, ads: Path, out: Path, dtype: Literal["f32", "bf16"] = "f32") -> int:
    """Embeds the ads of a Parquet file and saves the index; returns the number of ads."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from serving.index import build_index
    from tt_jax.bundle import Bundle
    from tt_jax.publish import require_absent
    from tt_jax.schema import SchemaError

    require_absent(out)  # before the work, not after it
    try:
        table = pq.ParquetFile(ads).read()
    except pa.ArrowInvalid as e:
        raise ValueError(f"{ads}: not a readable Parquet file: {e}") from None
    read = Bundle.load(bundle)
    try:
        index = build_index(read, table, dtype)
    except SchemaError as e:
        raise SchemaError(f"{ads}: {e}") from None
    index.save(out)
    return len(table)
