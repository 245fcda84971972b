"""Between the event loop and the scorer: a bounded queue, batches, deadlines."""
