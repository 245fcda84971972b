"""What only AdWorld allows: a model against the true probabilities, and simulated experiments."""
