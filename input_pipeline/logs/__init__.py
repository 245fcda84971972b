"""One's own logs as one stream of chunks.

read.py (files to chunks, splits, the corpus), joins.py (side tables), to_schema.py (columns as the schema has them).
"""

from input_pipeline.logs.read import ads_of_logs, by_name, by_time, every, parts_of_logs, read_logs
from input_pipeline.logs.to_schema import EVERY_ROW, OTHER, ROW_NUMBER
from input_pipeline.sources.text_format import TextFormat
from input_pipeline.values.chunks import STRICT

__all__ = [
    "EVERY_ROW", "OTHER", "ROW_NUMBER", "STRICT", "TextFormat", "ads_of_logs", "by_name", "by_time", "every",
    "parts_of_logs", "read_logs",
]  # fmt: skip
