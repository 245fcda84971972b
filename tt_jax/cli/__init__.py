"""The command line: one file a verb. The only package that may import from everywhere."""
