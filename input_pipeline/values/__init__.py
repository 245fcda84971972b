"""Values of a log: their types, names and times, whatever format they come from."""
