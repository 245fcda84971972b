"""Metrics: exact ones on the host, listed in `table`; running sums on the device (`streaming`)."""

from tt_jax.metrics.ranking import auc, gauc
from tt_jax.metrics.rows import EvalRows
from tt_jax.metrics.table import METRICS, Metric
from tt_jax.metrics.task_rows import task_metrics

__all__ = ["METRICS", "EvalRows", "Metric", "auc", "gauc", "task_metrics"]
