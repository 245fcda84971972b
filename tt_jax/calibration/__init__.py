"""Maps from raw to calibrated probabilities: how they are applied, fitted, and kept."""
