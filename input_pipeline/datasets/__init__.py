"""Data sets in the form of tensorflow-datasets, a folder each: see docs/how-to/prepare_data.md."""
