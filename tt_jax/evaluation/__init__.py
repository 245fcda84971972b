"""How good a trained model is on a split of a prepared set."""
