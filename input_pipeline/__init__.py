"""From ad logs to batches on a device.

files   --sources, readers, values-->  Arrow tables with types    (any format, bad rows by place and reason)
tables  --logs, recipes, adworld---->  chunks with a split        (joined, columns as the schema has them)
chunks  --prepare------------------->  a prepared set: blocks     (encoded rows, counted, hashed)
blocks  --batches.py---------------->  shuffled batches on a device; runner.py: here or on Ray
logs    --infer_schema, inspect----->  a first schema; a report; datasets: the same logs by tensorflow-datasets
"""
