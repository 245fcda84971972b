"""The stored form of a log, a prepared set, that `prepare` writes and `batches` reads.

prepared_set.py (opens and checks it), manifest.py (what it holds), block.py (blocks of encoded rows, written and read),
samples.py (a few raw rows).
"""
