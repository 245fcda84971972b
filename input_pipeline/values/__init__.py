"""Values of a log: their types, names and times, whatever format they come from.

chunks.py (rows, bad rows), cast.py (to a type, exactly), infer_types.py, parse_text.py, python_rows.py (rows of dicts),
column_names.py, times.py, label_expression.py (`rating>=4`).
"""
