"""What is in a log, in one pass and bounded memory: `tt-jax inspect`.

values.py (a column as 64-bit keys), sketches.py (distinct, frequent, sample), statistics.py (of a column, of a split),
label_counts.py (roles, label rates), survey.py (the pass, in parts) -> drift.py, figures.py (distances, sizes of
tables), report.py (`inspect.json`), findings.py (lines that deserve a look).
"""
