"""Data sets in the form of tensorflow-datasets, a folder each: see docs/data.md."""
