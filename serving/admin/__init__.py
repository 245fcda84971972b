"""Other bundles, indexes and ads for a service that goes on: `app.py` is the admin listener with its routes,
`messages.py` what it reads and writes, `updates.py` makes one load or change at a time, `carry.py` takes the changes of
one index to another, `journal_upkeep.py` compacts and prunes journals, `listeners.py` opens other addresses.
"""
