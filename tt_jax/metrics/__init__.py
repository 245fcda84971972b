"""Metrics: exact ones on the host (`report`, `ranking`, `probability`), running sums on the device (`streaming`)."""

from tt_jax.metrics.probability import sigmoid
from tt_jax.metrics.ranking import auc, gauc
from tt_jax.metrics.report import METRICS, EvalState, loss_metrics, task_metrics

__all__ = ["METRICS", "EvalState", "auc", "gauc", "loss_metrics", "sigmoid", "task_metrics"]
