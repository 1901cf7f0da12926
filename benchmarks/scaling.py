"""What a step costs on 1 to 4 workers and servers, and what that says of 20 machines.

    python -m benchmarks.scaling [--quick] [--keep]

Trains the click model in synchronous rounds (Algorithm 1 of arXiv 1711.06505) on local clusters of
several sizes, takes the cost of a round apart (`benchmarks.scaling_model`: core seconds for an
image, a sample, a request; bytes), measures the link, and predicts the paper's cluster and its
Table 1 from those parts.

With fewer cores than processes the clock says nothing about a larger cluster, so nothing is
extrapolated from it: the costs are processor time and bytes.

--keep also writes docs/results/scaling.md and scaling.png.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping
from typing import Any

import amstf  # isort: skip - selects Keras 2 before TensorFlow is imported
import numpy as np
import tensorflow as tf

from benchmarks import chief, click_run, click_shape, harness, scaling_model, scaling_page
from benchmarks.click_run import Costs
from benchmarks.click_shape import ClickData, ClickShape
from benchmarks.scaling_model import Parts, Round, Setting
from launch import native_logs, program

_SHAPE = ClickShape()


@dataclasses.dataclass(frozen=True)
class Config:
    """One run.

    Attributes:
        shape: Of model and data.
        clusters: Workers, servers and batch size (W, S, B) of each cluster.
        merge: Merge policy.
        steps: Steps of each worker in a repetition.
        repeats: Repetitions; one before is warm-up.
        link_megabytes: Size of what is sent to measure the link.
    """

    shape: ClickShape = _SHAPE
    clusters: tuple[tuple[int, int, int], ...] = (
        *((workers, servers, 256) for workers in (1, 2, 4) for servers in (1, 2, 4)),
        (1, 1, 64),
        (2, 2, 64),
        (1, 1, 1024),
        (2, 2, 1024),
    )
    merge: str = "sync"
    steps: int = 8
    repeats: int = 3
    link_megabytes: int = 64


QUICK = Config(
    _SHAPE.quick(),
    clusters=((1, 1, 128), (2, 1, 128), (1, 2, 128), (1, 1, 512)),
    steps=4,
    repeats=1,
    link_megabytes=16,
)


def measure(config: Config, data: ClickData, workers: int, servers: int, batch: int) -> list[Round]:
    """Trains on a cluster of its own; one round (of averages) for each repetition."""
    shape = dataclasses.replace(config.shape, batch_size=batch)
    costs = click_run.train(
        "benchmarks.scaling", shape, workers, servers, {"merge": config.merge},
        steps=config.steps, repeats=config.repeats,
    )  # fmt: skip
    data = dataclasses.replace(data, shape=shape)
    steps = config.steps * (1 + config.repeats)
    asked = workers * data.distinct_images(workers, steps)
    return [_round(one, workers, servers, batch, asked) for one in costs]


def _round(costs: Costs, workers: int, servers: int, batch: int, asked: float) -> Round:
    rounds = costs.steps / workers
    # Each server counts its own; without meetings every step is a round.
    exchanges = costs.counters.get("rounds", costs.steps * servers) / servers / rounds
    return Round(
        workers=workers,
        servers=servers,
        samples=batch,
        asked=asked,
        embedded=workers * costs.embedded,
        exchanges=exchanges,
        server_s=costs.processor_s["ps"] / rounds,
        worker_s=costs.processor_s["worker"] / rounds,
        chief_s=costs.processor_s["chief"] / rounds,
        bytes=costs.loopback_bytes / rounds,
        clock_s=costs.seconds / rounds,
    )


def middle(rounds: list[Round]) -> Round:
    """Median of every number."""
    return Round(
        **{
            field.name: statistics.median(getattr(one, field.name) for one in rounds)
            for field in dataclasses.fields(Round)
        }
    )


def work(job: dict[str, Any]) -> Any:
    """As the chief: trains, or measures the link."""
    return measure_link(job["megabytes"]) if "megabytes" in job else click_run.work(job)


def measure_link(megabytes: int) -> dict[str, float]:
    """As the chief: how fast the contents of a server's variables come.

    Returns:
        "bytes_a_second", "latency_s" of an answer of a few bytes, and "core_s_a_byte", processor
        time of both ends together.
    """
    with native_logs.filtered():
        chief.connect(amstf.AmsConfig())
        with tf.device("/job:ps/replica:0/task:0/device:CPU:0"):
            large = tf.Variable(np.ones([megabytes * 250_000], np.float32))
            small = tf.Variable(np.ones([4], np.float32))
        repeats = 15
        timings = harness.measure_together(
            {"large": lambda: large.numpy(), "small": lambda: small.numpy()}, repeats=repeats
        )
        before = sum(chief.processor_seconds().values())
        for _ in range(repeats):
            large.numpy()
        processor = sum(chief.processor_seconds().values()) - before
        latency = timings["small"].median
        return {
            "bytes_a_second": 1e6 * megabytes / (timings["large"].median - latency),
            "latency_s": latency,
            "core_s_a_byte": processor / repeats / (1e6 * megabytes),
        }


def errors(parts: Parts, rounds: list[Round]) -> dict[str, float]:
    """Largest relative error of the model for what was measured."""
    measured = {"server": "server_s", "worker": "worker_s", "bytes": "bytes"}
    return {
        name: max(abs(parts.costs(one)[name] / getattr(one, field) - 1) for one in rounds)
        for name, field in measured.items()
    }


def predictions(parts: Parts, cores: int, tower_bytes: float) -> dict[str, dict[int, Any]]:
    """Hours and seconds of a round on the paper's cluster sizes, for several settings."""
    plain = Setting(cores=cores, tower_bytes=tower_bytes)
    settings = {
        "10 Gbit/s": plain,
        "25 Gbit/s": dataclasses.replace(plain, link=3.125e9),
        "10 Gbit/s, sync_every=10": dataclasses.replace(plain, exchanges=0.1),
        "10 Gbit/s, E on 4 servers": dataclasses.replace(plain, tower_owners=4),
    }
    return {
        name: {
            machines: (seconds := scaling_model.predict(parts, setting, machines))
            | {"total": sum(seconds.values())}
            | {"hours": scaling_model.hours(sum(seconds.values()), machines, setting.samples)}
            for machines in scaling_model.PAPER_HOURS
        }
        for name, setting in settings.items()
    }


def main(arguments: list[str]) -> None:
    """Measures, fits, predicts, and prints four tables."""
    del arguments
    if chief.was_given_a_job():
        return chief.do(work)
    config = QUICK if harness.FLAGS.quick else Config()
    report = harness.Report("scaling", config)
    data = click_shape.prepare(config.shape)
    measured: list[Round] = []
    every: list[list[Round]] = []
    for workers, servers, batch in config.clusters:
        print(f"W={workers} S={servers} B={batch} ... ", end="", flush=True)
        every.append(measure(config, data, workers, servers, batch))
        measured.append(middle(every[-1]))
        print(f"{workers * batch / measured[-1].clock_s:.0f} samples/s", flush=True)
    link = chief.run("benchmarks.scaling", 1, 1, {"megabytes": config.link_megabytes})
    parts = scaling_model.fit(measured)
    cores = report.as_json()["machine"]["cores"]
    predicted = predictions(parts, cores, 8.0 * config.shape.tower_weights)
    report.results = {
        "rounds": [[dataclasses.asdict(one) for one in rounds] for rounds in every],
        "link": link,
        "parts": dataclasses.asdict(parts),
        "predicted": predicted,
        "paper": {"hours": scaling_model.PAPER_HOURS, **scaling_model.paper_rounds()},
    }
    first, last = min(scaling_model.PAPER_HOURS), max(scaling_model.PAPER_HOURS)
    report.ratios = {
        "fit_worst_error": {name: round(e, 3) for name, e in errors(parts, measured).items()},
        "hours_over_paper": {
            name: {n: round(one[n]["hours"] / h, 3) for n, h in scaling_model.PAPER_HOURS.items()}
            for name, one in predicted.items()
        },
        f"efficiency_at_{last}": {
            "paper": _efficiency(scaling_model.PAPER_HOURS, first, last),
            **{
                name: _efficiency({n: one[n]["hours"] for n in (first, last)}, first, last)
                for name, one in predicted.items()
            },
        },
    }
    result = scaling_page.Result(parts, measured, link, predicted, config.shape, cores)
    for text in scaling_page.tables(result):
        print("\n" + text)
    if harness.FLAGS.keep:
        scaling_page.write(result, report.as_json()["machine"], quick=harness.FLAGS.quick)
    print()
    report.finish()
    return None


def _efficiency(hours: Mapping[int, float], first: int, last: int) -> float:
    return round(hours[first] / hours[last] * first / last, 3)


if __name__ == "__main__":
    program.run(main)
