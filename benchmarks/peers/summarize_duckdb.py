"""DuckDB: what it says of every column of a log, for benchmarks/inspect.py.

python benchmarks/peers/summarize_duckdb.py FILES
"""

import sys

import duckdb

print(duckdb.sql(f"SUMMARIZE SELECT * FROM '{sys.argv[1]}'"))
