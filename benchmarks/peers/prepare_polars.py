"""Polars: the join and the partitioning of benchmarks/prepare.py, streaming.

python benchmarks/peers/prepare_polars.py LOG_FOLDER OUT_FOLDER EVAL_FROM_MS
"""

import sys

import polars as pl

log, out, eval_from = sys.argv[1], sys.argv[2], int(sys.argv[3])
joined = (
    pl.scan_parquet(f"{log}/impressions/*.parquet")
    .join(pl.scan_parquet(f"{log}/users.parquet"), on="user_id", how="left")
    .join(pl.scan_parquet(f"{log}/ads.parquet"), on="ad_id", how="left")
    .with_columns(split=pl.when(pl.col("time_ms") >= eval_from).then(pl.lit("eval")).otherwise(pl.lit("train")))
)
parts = pl.PartitionBy(f"{out}/", key=["split", "scenario"])
joined.sink_parquet(parts, compression="lz4", statistics=False, mkdir=True)
