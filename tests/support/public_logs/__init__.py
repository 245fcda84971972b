"""Small logs in the shapes of public ones, with what `tt-jax init` is to make of each: `LOGS`."""

from tests.support.public_logs import impressions, interactions
from tests.support.public_logs.maker import LOGS, ROWS

__all__ = ["LOGS", "ROWS", "impressions", "interactions"]
