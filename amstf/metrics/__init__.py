"""Exact offline metrics of click models, in numpy."""

from amstf.metrics.auc import GaucResult, auc, gauc, log_loss

__all__ = ["GaucResult", "auc", "gauc", "log_loss"]
