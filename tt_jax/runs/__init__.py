"""The directory of a run: its record, checkpoints, logs and lock."""
