"""Where a log is: files of known format, as streams of bytes.

listing.py (names, globs, URLs to files), detect_format.py (the table of formats), source.py (one file), text_format.py
(how values are written), crc32c.py, notices.py (lines on stderr).
"""
