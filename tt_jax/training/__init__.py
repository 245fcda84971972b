"""Training: one loop, one pure step, sparse and dense optimizers, evaluation, checkpoints, writers."""
