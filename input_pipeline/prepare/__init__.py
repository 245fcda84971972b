"""Raw logs to a prepared set."""

from input_pipeline.prepare.sequential import prepare

__all__ = ["prepare"]
