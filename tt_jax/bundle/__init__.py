"""What is exported and served: the schema, the weights and their calibration, verified byte by byte.

`reader.py` says what is in a bundle, and loads it; `writer.py` writes it; `stablehlo.py` are its programs for other
languages and machines; `fingerprint.py` names it.

Only the reader is offered here: the writer needs Orbax, which a service does not load.
"""

from tt_jax.bundle.reader import Bundle, BundleError

__all__ = ["Bundle", "BundleError"]
