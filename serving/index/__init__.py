"""The ad index: how it is built, stored, changed, and how its changes last."""
