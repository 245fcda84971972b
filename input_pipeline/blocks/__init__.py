"""The stored form of a log, a prepared set: blocks of encoded rows, a manifest, a few raw samples."""
