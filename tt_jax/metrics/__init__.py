"""Metrics: exact ones on the host (`report`, `ranking`, `probability`), running sums on the device (`streaming`)."""

from tt_jax.metrics.ranking import auc, gauc
from tt_jax.metrics.rows import EvalState, task_metrics
from tt_jax.metrics.task_rows import METRICS

__all__ = ["METRICS", "EvalState", "auc", "gauc", "task_metrics"]
