"""Several models in one service: `plan.py` reads which, `router.py` chooses the one that answers a request, `shadow.py`
compares it with one that does not. A service of one model is a table of one.

A *model* has a name that requests may give. It has one pair of a bundle and an index, or several that share its
requests by weight (a canary), each with a name of its own: `shopping`, or `shopping.1` and `shopping.2`; and maybe a
shadow, `shopping.shadow`. The batcher, the metrics and the administrator know pairs by these names.
"""
