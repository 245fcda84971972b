"""AdWorld: a synthetic ads platform whose true probabilities are known.

`world.py` draws users and ads; `truth.py` has the probabilities; `funnel.py` retrieves, ranks and auctions;
`features.py` is what a log shows of it; `simulate.py` runs days and writes their logs.
"""
