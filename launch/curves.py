"""Draws the curves of a run."""

from __future__ import annotations

import pathlib
import time

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from launch.step_logger import History


def figure(history: History) -> Figure:
    """Draws loss, AUC and GAUC by step; the caller closes the figure."""
    drawn, (losses, aucs) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    _curve(losses, history, "loss", "training loss", color="tab:blue", alpha=0.6)
    _curve(losses, history, "validation_log_loss", "validation log loss", "o-", color="tab:orange")
    losses.set(xlabel="step", ylabel="log loss (nats)")
    _curve(aucs, history, "validation_auc", "validation AUC", "o-", color="tab:orange")
    _curve(aucs, history, "validation_gauc", "validation GAUC", "s--", color="tab:green")
    aucs.set(xlabel="step", ylabel="AUC")
    for axes in (losses, aucs):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    return drawn


EVERY_S = 10.0
"""Between drawings while a run goes on. They were a quarter of what a run on a small log took."""


def draw(history: History, path: pathlib.Path, title: str, every_s: float = 0.0) -> None:
    """Draws the curves of a run into a PNG file.

    Args:
        history: The rows of the run.
        path: The file to write.
        title: Says which run it is.
        every_s: Leave a file that is younger than so many seconds as it is.
    """
    if every_s and path.exists() and time.time() - path.stat().st_mtime < every_s:
        return
    drawn = figure(history)
    drawn.suptitle(title)
    partial = path.with_name(f".{path.name}")
    drawn.savefig(partial, format="png", dpi=120)
    plt.close(drawn)
    partial.replace(path)


def _curve(axes: plt.Axes, history: History, column: str, label: str, *style, **look) -> None:
    steps, values = history.column(column)
    if steps:
        axes.plot(steps, values, *style, label=label, markersize=4, **look)
