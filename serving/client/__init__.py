"""A client of the service, for threads and for asyncio (`client.py`), which retries (`retries.py`). Needs no JAX."""

from serving.client.client import Ad, AdId, AsyncClient, Client, Ranked, ServiceError
from serving.client.retries import DeadlinePassedError, NoAnswerError, Retries

__all__ = [
    "Ad", "AdId", "AsyncClient", "Client", "DeadlinePassedError", "NoAnswerError", "Ranked", "Retries", "ServiceError",
]  # fmt: skip
