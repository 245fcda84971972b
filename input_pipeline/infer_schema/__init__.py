"""A first schema for logs that nobody has described: `tt-jax init`.

sample.py -> sampled_columns.py -> guess_text_format.py, name_words.py, roles.py, tasks.py, holdout.py (the split),
leaks.py, guess_features.py -> write.py (a Python file to edit).
"""
