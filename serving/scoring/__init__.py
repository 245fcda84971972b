"""From encoded queries to ranked ads. `programs.py` compiles and calls, `jitted.py` is what is compiled, `top_k.py` the
scan of all ads, `device_corpus.py` the ads on the device, `results.py` what a call gives, `compile_cache.py` what of
the programs is kept for the next start.
"""
