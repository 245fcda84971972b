"""A first schema for logs that nobody has described: `write` tells what the others see in a sample."""
