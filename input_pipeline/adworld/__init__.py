"""AdWorld: a synthetic ads platform whose true probabilities are known."""
