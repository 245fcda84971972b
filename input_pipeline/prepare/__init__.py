"""Raw logs to a prepared set, which `blocks` describes.

sequential.py (in one process), parallel.py (by workers); vocabulary.py (the reading before), key_types.py (one type a
key), quarantine.py (bad rows), threads.py (encoding beside reading), writer.py (rows into blocks).
"""

from input_pipeline.prepare.sequential import prepare

__all__ = ["prepare"]
