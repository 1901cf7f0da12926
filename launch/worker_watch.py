"""Watches the workers of a training: reads what they have done, and says who lags behind."""

from __future__ import annotations

import time
from typing import Any

from amstf import AdvancedModelServerStrategy
from amstf.config import NONE
from launch.worker_rates import WorkerRates

_SILENT_SECONDS = 10.0


class WorkerWatch:
    """The workers of a strategy while it trains.

    Args:
        strategy: Counts the steps of each worker.
        batch_size: Samples of a step.
    """

    def __init__(self, strategy: AdvancedModelServerStrategy, batch_size: int) -> None:
        self._strategy = strategy
        self._batch_size = batch_size
        config = strategy.ams.config
        silent = _SILENT_SECONDS
        if config.merge != NONE:
            # So long a worker may wait for another that gives no sign.
            silent = max(silent, 2 * config.worker_timeout_ms / 1000)
        self._rates = WorkerRates(strategy.num_workers, batch_size, silent)
        self._began: float | None = None

    def begin_segment(self, steps: int) -> None:
        """Begins a segment of so many steps of all workers together."""
        now = time.monotonic()
        self._began = self._began or now
        self._rates.begin(now, self._strategy.worker_steps(), steps)

    def end_segment(self) -> None:
        """Ends a segment: the workers rest until the next."""
        self._rates.end()

    def poll(self) -> list[str]:
        """Reads the counters; returns what is to be said of stragglers."""
        steps, latest = self._strategy.worker_steps(), self._strategy.latest_worker_steps()
        return self._rates.observe(time.monotonic(), steps, latest)

    def text(self) -> str:
        """The rates for a line on the terminal; "" if there are none to tell apart."""
        return self._rates.text()

    def scalars(self) -> dict[str, float]:
        """Samples per second of each worker by its name in TensorBoard."""
        rates = self._rates.rates()
        if rates is None:
            return {}
        return {f"workers/{i}/samples_per_second": float(rate) for i, rate in enumerate(rates)}

    def report(self) -> list[dict[str, Any]]:
        """What each worker has done in this process's training, as in RUN/report.json."""
        seconds = time.monotonic() - self._began if self._began else 0.0
        return [
            {
                "steps": int(steps),
                "samples_per_second": steps * self._batch_size / seconds if seconds else None,
                "straggling_seconds": float(straggling),
            }
            for steps, straggling in zip(
                self._strategy.worker_steps(), self._rates.straggling_seconds, strict=True
            )
        ]
