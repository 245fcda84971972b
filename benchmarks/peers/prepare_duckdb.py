"""DuckDB: the join and the partitioning of benchmarks/prepare.py.

python benchmarks/peers/prepare_duckdb.py LOG_FOLDER OUT_FOLDER EVAL_FROM_MS [ordered]

`ordered` keeps the order of the log's rows, as ours does; without, DuckDB may write them in any order, which is faster.
"""

import sys

import duckdb

log, out, eval_from = sys.argv[1], sys.argv[2], int(sys.argv[3])
duckdb.execute(f"SET preserve_insertion_order = {'true' if 'ordered' in sys.argv else 'false'}")
duckdb.execute(f"""
    COPY (
      SELECT *, CASE WHEN time_ms >= {eval_from} THEN 'eval' ELSE 'train' END AS split
      FROM '{log}/impressions/*.parquet' LEFT JOIN '{log}/users.parquet' USING (user_id)
      LEFT JOIN '{log}/ads.parquet' USING (ad_id)
    ) TO '{out}' (FORMAT parquet, PARTITION_BY (split, scenario), COMPRESSION lz4)
""")
