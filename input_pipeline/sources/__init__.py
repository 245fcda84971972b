"""Where a log is: names, globs, directories and URLs to files of known format."""
