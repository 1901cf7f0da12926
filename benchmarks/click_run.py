"""Trains the click model on a local cluster and brings back what it cost, part by part."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import amstf  # isort: skip - selects Keras 2 before TensorFlow is imported
import tf_keras as keras

from amstf.optimizers import Adam
from benchmarks import chief, click_shape, link_bytes
from benchmarks.click_shape import ClickShape
from launch import native_logs


@dataclasses.dataclass(frozen=True)
class Costs:
    """What a number of steps cost.

    Attributes:
        steps: Steps of all workers together.
        seconds: On the clock.
        counters: Of the servers, summed; names as `strategy.ams.counters()`.
        processor_s: Processor time by role: "worker", "ps", "chief".
        loopback_bytes: What the loopback device of the cluster moved.
    """

    steps: int
    seconds: float
    counters: Mapping[str, int]
    processor_s: Mapping[str, float]
    loopback_bytes: int

    @property
    def embedded(self) -> float:
        """Images that E embedded, a step."""
        # Without merging there is no count of distinct ids: each one looked up is embedded.
        return self.counters.get("ids_distinct", self.counters["ids_looked_up"]) / self.steps

    def wait_ms(self) -> float:
        """Time that a request waited for others, milliseconds, the mean."""
        requests = self.counters.get("requests", 0)
        return 1e-6 * self.counters.get("wait_nanoseconds", 0) / requests if requests else 0.0


def train(
    module: str,
    shape: ClickShape,
    workers: int,
    servers: int,
    config: Mapping[str, Any],
    *,
    steps: int,
    repeats: int,
) -> list[Costs]:
    """Trains on a cluster of its own.

    Args:
        module: The benchmark, whose `main` calls `chief.do(click_run.work)`.
        shape: Of model and data.
        workers: Number of workers (W).
        servers: Number of parameter servers (S).
        config: Arguments of `AmsConfig`.
        steps: Steps of each worker in each repetition.
        repeats: How often; one more as warm-up is not counted.

    Returns:
        The costs of each repetition.
    """
    job = {
        "shape": dataclasses.asdict(shape),
        "workers": workers,
        "config": dict(config),
        "steps": steps,
        "repeats": repeats,
    }
    return [Costs(**one) for one in chief.run(module, workers, servers, job)]


def work(job: dict[str, Any]) -> list[dict[str, Any]]:
    """As the chief: does the job of `train`."""
    with native_logs.filtered():
        strategy = chief.connect(amstf.AmsConfig(**job["config"]))
        shape = _shape(job["shape"])
        data = click_shape.prepare(shape)
        with strategy.scope():
            model = click_shape.make_model(shape, data.store)
            model.compile(Adam(0.001), "binary_crossentropy")
        # The workers share the steps of an epoch; in a synchronous round each must take one.
        steps = job["steps"] * job["workers"]
        costs = _CostsByEpoch(strategy, steps)
        model.fit(
            data.batches(job["workers"]),
            steps_per_epoch=steps,
            epochs=1 + job["repeats"],
            callbacks=[costs],
            verbose=0,
        )
        return costs.costs[1:]


class _CostsByEpoch(keras.callbacks.Callback):
    """Reads everything at the ends of epochs, the only times at which no step is under way."""

    _supports_tf_logs = True

    def __init__(self, strategy: amstf.AdvancedModelServerStrategy, steps: int) -> None:
        super().__init__()
        self._ams = strategy.ams
        self._steps = steps
        self._before: dict[str, Any] = {}
        self.costs: list[dict[str, Any]] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Begins an epoch."""
        self._before = self._read()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Adds the costs of the epoch."""
        now = self._read()
        difference = {
            key: {name: value[name] - self._before[key][name] for name in value}
            if isinstance(value, dict)
            else value - self._before[key]
            for key, value in now.items()
        }
        self.costs.append({"steps": self._steps, **difference})

    def _read(self) -> dict[str, Any]:
        clock = time.perf_counter()
        counters: dict[str, int] = {}
        for server in self._ams.counters():
            for name, count in server.items():
                counters[name] = counters.get(name, 0) + count
        by_role = dict.fromkeys(("worker", "ps", "chief"), 0.0)
        for task, seconds in chief.processor_seconds().items():
            by_role[task.partition("-")[0]] += seconds
        return {
            "seconds": clock,
            "counters": counters,
            "processor_s": by_role,
            "loopback_bytes": link_bytes.read_device().sent,
        }


def _shape(sizes: Mapping[str, Any]) -> ClickShape:
    """Undoes `dataclasses.asdict` and JSON."""
    return ClickShape(**{name: tuple(v) if isinstance(v, list) else v for name, v in sizes.items()})
