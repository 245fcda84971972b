"""From ad logs to batches on a device: readers, recipes, prepared blocks, and the Grain pipeline."""
