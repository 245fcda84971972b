"""Is what was served what was trained? `request_log.py` logs a sample of requests, `replay.py` scores them again,
`versions.py` finds the bundle and index that served them, `profile.py` compares their features with the prepared set.
"""
