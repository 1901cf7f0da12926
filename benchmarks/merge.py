"""What merging the requests of workers saves, and what it costs.

    python -m benchmarks.merge [--quick] [--keep]

The click model is trained by 1 to 8 workers under each merge policy, on a cluster of its own each
time.

  distinct_over_embedded  distinct images of the workers' steps together (step k of every worker),
                          over the images that E embedded for as many steps: 1 where each image is
                          embedded once, and with no merging what the popularity of images says
  samples/s               on the clock: on a machine with fewer cores than processes it shows work
                          saved, not what a cluster would reach
  server ms, worker ms    processor time of all servers and of all workers, a step
  wait ms                 how long a request waited for others, the mean

Rows named "none" are the baseline of the same number of workers.
"""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

import amstf  # noqa: F401  # isort: skip - selects Keras 2 before TensorFlow is imported
import numpy as np

from benchmarks import chief, click_run, click_shape, harness
from benchmarks.click_run import Costs
from benchmarks.click_shape import ClickData, ClickShape
from launch import program

_SHAPE = ClickShape(batch_size=256)


@dataclasses.dataclass(frozen=True)
class Config:
    """One run.

    Attributes:
        shape: Of model and data.
        workers: Numbers of workers (W).
        servers: Servers (S).
        waits_ms: Values of merge_wait_ms under "async".
        steps: Steps of each worker in a repetition.
        repeats: Repetitions; one before is warm-up.
    """

    shape: ClickShape = _SHAPE
    workers: tuple[int, ...] = (1, 2, 4, 8)
    servers: int = 2
    waits_ms: tuple[float, ...] = (2.0, 10.0)
    steps: int = 8
    repeats: int = 2

    def policies(self) -> dict[str, dict[str, Any]]:
        """Arguments of `AmsConfig` by name; "none" is first."""
        waits = {
            f"async {wait:g} ms": {"merge": "async", "merge_wait_ms": wait}
            for wait in self.waits_ms
        }
        return {"none": {"merge": "none"}, **waits, "sync": {"merge": "sync"}}


QUICK = Config(_SHAPE.quick(), workers=(2,), waits_ms=(10.0,), steps=4, repeats=1)


def distinct_together(data: ClickData, num_workers: int, steps: int) -> float:
    """Distinct images of one step of every worker together, the mean over steps.

    Args:
        data: What the workers read.
        num_workers: Workers (W).
        steps: Steps of each worker, from the first.
    """
    together: list[set[int]] = [set() for _ in range(steps)]
    for worker in range(num_workers):
        batches = data.batches(
            num_workers, fields=["behaviour_images", "ad_image"], worker=worker
        ).take(steps)
        for step, (inputs, _) in zip(together, batches.as_numpy_iterator(), strict=True):
            for ids in inputs.values():
                step.update(np.unique(ids[ids >= 0]).tolist())
    return statistics.mean(map(len, together))


def summary(costs: list[Costs], shape: ClickShape, workers: int, distinct: float) -> dict[str, Any]:
    """Medians over repetitions.

    Args:
        costs: Of the repetitions.
        shape: Of the model.
        workers: Workers (W).
        distinct: Distinct images of one step of every worker together.
    """
    rates = [shape.batch_size * one.steps / one.seconds for one in costs]

    def milliseconds(role: str) -> float:
        return statistics.median(1e3 * one.processor_s[role] / one.steps for one in costs)

    return {
        "distinct_over_embedded": round(
            statistics.median(distinct / (workers * one.embedded) for one in costs), 3
        ),
        "embedded_a_step": statistics.median(one.embedded for one in costs),
        "samples_a_second": statistics.median(rates),
        "samples_a_second_range": [min(rates), max(rates)],
        "server_ms": milliseconds("ps"),
        "worker_ms": milliseconds("worker"),
        "wait_ms": statistics.median(one.wait_ms() for one in costs),
        "costs": [dataclasses.asdict(one) for one in costs],
    }


def main(arguments: list[str]) -> None:
    """Runs every policy with every number of workers."""
    del arguments
    if chief.was_given_a_job():
        return chief.do(click_run.work)
    config = QUICK if harness.FLAGS.quick else Config()
    report = harness.Report("merge", config)
    data = click_shape.prepare(config.shape)
    results: dict[str, dict[str, Any]] = {name: {} for name in config.policies()}
    rows = []
    for workers in config.workers:
        distinct = distinct_together(data, workers, config.steps * (1 + config.repeats))
        for name, policy in config.policies().items():
            print(f"{name}, {workers} workers ... ", end="", flush=True)
            costs = click_run.train(
                "benchmarks.merge", config.shape, workers, config.servers, policy,
                steps=config.steps, repeats=config.repeats,
            )  # fmt: skip
            one = results[name][str(workers)] = summary(costs, config.shape, workers, distinct)
            rows.append(_row(name, workers, one, results["none"][str(workers)]))
            print(f"{one['samples_a_second']:.0f} samples/s", flush=True)
    header = ["merge", "W", "distinct/embedded", "embedded a step", "samples/s", "range",
              "x none", "server ms", "x none", "worker ms", "wait ms"]  # fmt: skip
    print("\n" + harness.table(header, rows) + "\n")
    report.results = results
    for key in ("distinct_over_embedded",):
        report.ratios[key] = {
            name: {workers: one[key] for workers, one in by_workers.items()}
            for name, by_workers in results.items()
        }
    for key, value in (
        ("samples_over_none", "samples_a_second"),
        ("server_over_none", "server_ms"),
    ):
        report.ratios[key] = {
            name: {w: round(one[value] / results["none"][w][value], 3) for w, one in found.items()}
            for name, found in results.items()
        }
    report.finish()
    return None


def _row(name: str, workers: int, one: dict[str, Any], none: dict[str, Any]) -> list[Any]:
    slowest, fastest = one["samples_a_second_range"]
    return [
        name,
        workers,
        one["distinct_over_embedded"],
        round(one["embedded_a_step"]),
        round(one["samples_a_second"]),
        f"{slowest:.0f}-{fastest:.0f}",
        one["samples_a_second"] / none["samples_a_second"],
        one["server_ms"],
        one["server_ms"] / none["server_ms"],
        one["worker_ms"],
        one["wait_ms"],
    ]


if __name__ == "__main__":
    program.run(main)
