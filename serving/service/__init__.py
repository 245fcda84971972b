"""The HTTP service around a scorer: routes, messages, errors, who may use it, what it counts."""
