"""Between the event loop and the scorer. `batcher.py` has the thread that ranks, `queue.py` which requests go together,
`batch.py` one call and its answers, `pending.py` who awaits them, `latency_model.py` how long a call takes,
`expected_wait.py` how long a request waits, `request.py` a checked request, `queue_metrics.py` what is counted.
"""
