"""The ad index. `ad_index.py` is the stored index, `build.py` makes it of a file, which `parquet_corpus.py` and
`ad_columns.py` read; `change_set.py` is one set of changes, `delta.py` a stored one, `journal.py` a directory of them,
`compaction.py` many as one; `ad_table.py` is which ad is where in a scorer.
"""
