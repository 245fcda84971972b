"""How long a request will wait for its answer, by what waits and what runs, for each model as its own calls took."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from serving.batching.batch import Batch
from serving.batching.latency_model import LatencyModel
from serving.batching.queue import BatchQueue
from serving.scoring.programs import QUERIES


class ExpectedWait:
    """Told of the batches that start and end.

    Attributes:
      latencies: model -> seconds of its calls.
      running: batches.
      busy_until: when these should be done, of `time.perf_counter`.
    """

    def __init__(self, models: Iterable[str]) -> None:
        self.latencies = {model: LatencyModel() for model in models}
        self.running, self.busy_until = 0, 0.0
        self._finished = 0.0  # when the last batch was done

    def of(self, queue: BatchQueue, queries: int, is_large: bool, model: str) -> float:
        """Seconds until as many more queries would be answered; 0 if nothing is before them."""
        if not self.running and not queue.queries:
            return 0.0
        latencies = self.latencies.values()
        seconds = max(0.0, self.busy_until - time.perf_counter()) + max(latency.sending for latency in latencies)
        if not queue.large or is_large:
            return seconds + self._ranking(queue.small_of + queue.large_of, queries, model)
        own = self._ranking(queue.small_of, queries, model)  # every other call, at most, is one for a large request
        of_one = max(latency.call(queue.at_once) for latency in latencies)
        return seconds + own + min(self._ranking(queue.large_of), own + of_one)

    def _ranking(self, waiting: Mapping[str, int], more: int = 0, model: str = "") -> float:
        """Seconds for what waits, by model, and for more queries; of the fastest model if theirs is not known."""
        own = {name: latency.queue(waiting.get(name, 0)) for name, latency in self.latencies.items()}
        models = (model,) if model else tuple(own)
        return sum(own.values()) + min(self.latencies[m].queue(waiting.get(m, 0) + more) - own[m] for m in models)

    def next_done(self, queue: BatchQueue) -> dict[str, float]:
        """Model -> when its next call would be done, if it were started now."""
        now = time.perf_counter()
        sizes = {m: latency.batch_size(max(1, queue.small_of[m]), QUERIES[-1]) for m, latency in self.latencies.items()}
        return {model: now + self.latencies[model].call(size) for model, size in sizes.items()}

    def started(self, batch: Batch) -> None:
        """A batch was started."""
        self.busy_until = max(batch.started, self.busy_until) + self.latencies[batch.model].queue(batch.queries)
        self.running += 1

    def finished(self, batch: Batch, following: Batch | None) -> None:
        """A batch is done, and that one runs."""
        now = time.perf_counter()
        own = now - max(batch.started, self._finished)  # seconds, of two that overlap
        self.latencies[batch.model].measured(batch.queries, own)
        self._finished = now
        # Anew, not added up: what batches took less, or more, than expected would stay in it as long as it is busy.
        ahead = self.latencies[following.model].queue(following.queries) if following else 0.0
        self.busy_until = now + ahead
