"""What is in a log, in one pass and bounded memory: `tt-jax inspect`."""
