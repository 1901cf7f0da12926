"""Samples per second of three ways to keep the images, on links of several speeds.

    python -m benchmarks.step [--quick] [--keep]

Store-in-worker, store-in-server and AMS (see `benchmarks.ways`) train the same model, each on a
cluster of its own; the clusters are timed in turn, so that a busy moment of the machine meets all.
First on bare loopback. Then each process is on a host of its own (`benchmarks.network`), and every
host's link is limited: not at all, to 10 Gbit/s, to 1 Gbit/s, in turn. All hosts share the cores of
this machine, so that computing costs what it does on loopback; only the wire gets slower.

Prediction, from the steps on links without limit, for n steps of W workers:

  T        seconds of the n steps on links without limit
  L        seconds that the busiest link needs for its bytes of the n steps: bytes / speed
  at least  max(T, L)           all that a step does overlaps with the wire
  expected  max(T, T / W + L)   a worker waits for its wire, while the others compute
  at most   T + L               nothing overlaps
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import statistics
import tempfile
from collections.abc import Mapping
from typing import Any

from amstf.config import AmsConfig
from benchmarks import click_shape, harness, images_in_samples, network, ways
from benchmarks.click_shape import ClickShape
from launch import program

LOOPBACK, UNLIMITED = "loopback", "no limit"


@dataclasses.dataclass(frozen=True)
class Config:
    """One run.

    Attributes:
        shape: Sizes of model and data.
        ams: The knobs of AMS.
        num_workers: Workers (W).
        num_servers: Servers (S).
        gbits: Speeds of the links, Gbit/s.
        steps: Steps that are timed together.
        repeats: Rounds, in each of which every way makes so many steps.
    """

    shape: ClickShape = dataclasses.field(default_factory=ClickShape)
    ams: AmsConfig = dataclasses.field(default_factory=ways.ams_of_flags)
    num_workers: int = 2
    num_servers: int = 2
    gbits: tuple[int, ...] = (10, 1)
    steps: int = 8
    repeats: int = 3

    @property
    def ways(self) -> tuple[ways.Way, ...]:
        """The ways to time."""
        return (ways.ams(self.ams), ways.SERVER, ways.WORKER)


def quick(config: Config) -> Config:
    """The same at sizes at which a run takes a minute or two."""
    return dataclasses.replace(
        config, shape=config.shape.quick(), num_workers=1, num_servers=1, repeats=3
    )


class Clusters:
    """A cluster for each way, all of them alive and one at work.

    Args:
        config: The run.
        directory: For logs.
        on_hosts: Whether processes live on hosts of their own.

    Attributes:
        hosts: Of each way, by name, if they are.
        busiest_link: (links, way) -> bytes that the link with the most of them carried in one
            direction, for each time that steps were made.
    """

    def __init__(self, config: Config, directory: pathlib.Path, on_hosts: bool) -> None:
        self._config = config
        self._directory = directory
        self._on_hosts = on_hosts
        self._parts = contextlib.ExitStack()
        self._running: dict[str, ways.RunningWay] = {}
        self.hosts: dict[str, network.Hosts] = {}
        self.busiest_link: dict[tuple[str, str], list[int]] = {}

    def __enter__(self) -> Clusters:
        config = self._config
        names = ways.host_names(config.num_workers, config.num_servers)
        with contextlib.ExitStack() as parts:
            if not self._on_hosts:
                parts.enter_context(network.own_loopback())
            for way in config.ways:
                print(f"starting the cluster of {way.name}", flush=True)
                if self._on_hosts:
                    self.hosts[way.name] = parts.enter_context(network.Hosts(names))
                running = parts.enter_context(
                    ways.RunningWay(
                        way,
                        config.shape,
                        self._directory / way.name,
                        click_shape.cache_directory(),
                        num_workers=config.num_workers,
                        num_servers=config.num_servers,
                        hosts=self.hosts.get(way.name),
                    )
                )
                # The first steps trace functions and connect.
                running.steps(2 * config.num_workers)
                self._running[way.name] = running
            self._parts = parts.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._parts.close()

    def measure(self, links: Mapping[str, str | None]) -> dict[str, dict[str, harness.Timing]]:
        """Times the steps of all ways on all links in turn, after a round that is not timed.

        Args:
            links: What to call the links -> what they carry, as `tc` writes it; None: no limit.

        Returns:
            Name of the links -> way -> seconds of `steps` steps.
        """
        taken: dict[tuple[str, str], list[float]] = {}
        for round_ in range(1 + self._config.repeats):
            for name, rate in links.items():
                said = []
                for way in self._running:
                    seconds = self._steps(way, name, rate)
                    said.append(f"{way} {seconds:.2f} s")
                    if round_:
                        taken.setdefault((name, way), []).append(seconds)
                what = f"round {round_} of {self._config.repeats}" if round_ else "warm-up"
                print(f"  {what}, {name}, {self._config.steps} steps: {', '.join(said)}",
                      flush=True)  # fmt: skip
        return {
            name: {way: harness.Timing(tuple(taken[name, way])) for way in self._running}
            for name in links
        }

    def _steps(self, way: str, name: str, rate: str | None) -> float:
        hosts = self.hosts.get(way)
        if hosts is None:
            return self._running[way].steps(self._config.steps)
        hosts.limit(rate)
        before = hosts.link_bytes()
        seconds = self._running[way].steps(self._config.steps)
        busiest = max(count - before[link] for link, count in hosts.link_bytes().items())
        self.busiest_link.setdefault((name, way), []).append(busiest)
        return seconds


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Seconds that steps should take on limited links.

    Attributes:
        at_least: If all that a step does overlaps with the wire.
        expected: If a worker waits for its wire, while the others compute.
        at_most: If nothing overlaps.
    """

    at_least: float
    expected: float
    at_most: float


def predict(seconds: float, busiest: float, gbits: float, num_workers: int) -> Prediction:
    """Predicts the time of steps on limited links.

    Args:
        seconds: Of the steps without limit (T).
        busiest: Bytes that the busiest link carries in one direction for the steps.
        gbits: Speed of the links, Gbit/s.
        num_workers: Workers (W).

    Example:
        >>> predict(2.0, 1e9, 1, num_workers=2)
        Prediction(at_least=8.0, expected=9.0, at_most=10.0)
        >>> predict(2.0, 1e6, 1, num_workers=2).expected
        2.0
    """
    wire = busiest * 8 / (gbits * 1e9)
    return Prediction(
        at_least=max(seconds, wire),
        expected=max(seconds, seconds / num_workers + wire),
        at_most=seconds + wire,
    )


def over(values: Mapping[str, float]) -> dict[str, float]:
    """How many times more samples per second AMS has than the others, from seconds by way."""
    return {
        "ams_over_store_in_server": values["store-in-server"] / values["AMS"],
        "ams_over_store_in_worker": values["store-in-worker"] / values["AMS"],
    }


def main(arguments: list[str]) -> None:
    """Runs the benchmark."""
    del arguments
    config = Config()
    if harness.FLAGS.quick:
        config = quick(config)
    report = harness.Report("step", config)
    data = click_shape.prepare(config.shape)
    images_in_samples.prepare(data, config.num_workers)
    with tempfile.TemporaryDirectory(prefix="amstf-step-") as directory:
        _on_loopback(config, pathlib.Path(directory, "loopback"), report)
        reason = network.unavailable()
        if reason:
            print(f"skipped, limited links: {reason}")
            report.results["skipped"] = reason
        else:
            _on_limited_links(config, pathlib.Path(directory, "hosts"), report)
    distinct = data.distinct_images(config.num_workers)
    report.results["distinct_images_per_step"] = distinct
    shape = config.shape
    print(
        f"\na step: {shape.batch_size:,} samples, {distinct:,.0f} distinct images of "
        f"{shape.image_width:,} features; {config.num_workers} workers, {config.num_servers} "
        f"servers; {config.ams}"
    )
    _print_table(report.results["links"])
    report.finish()


def _on_loopback(config: Config, directory: pathlib.Path, report: harness.Report) -> None:
    with Clusters(config, directory, on_hosts=False) as clusters:
        timings = clusters.measure({LOOPBACK: None})[LOOPBACK]
    report.ratios[LOOPBACK] = over(_medians(timings))
    report.results["links"] = {LOOPBACK: _results(config, timings)}


def _on_limited_links(config: Config, directory: pathlib.Path, report: harness.Report) -> None:
    links = {f"{gbits} Gbit/s": f"{gbits}gbit" for gbits in config.gbits}
    with Clusters(config, directory, on_hosts=True) as clusters:
        measured = clusters.measure({UNLIMITED: None, **links})
    busiest = {
        way: statistics.median(clusters.busiest_link[UNLIMITED, way]) for way in clusters.hosts
    }
    report.results["busiest_link_bytes_per_step"] = {
        way: count / config.steps for way, count in busiest.items()
    }
    unlimited = _medians(measured[UNLIMITED])
    report.ratios["no_limit"] = over(unlimited)
    report.results["links"][UNLIMITED] = _results(config, measured[UNLIMITED])
    for gbits, (name, rate) in zip(config.gbits, links.items(), strict=True):
        predicted = {
            way: predict(unlimited[way], busiest[way], gbits, config.num_workers)
            for way in unlimited
        }
        expected = over({way: prediction.expected for way, prediction in predicted.items()})
        report.ratios[rate] = {
            **over(_medians(measured[name])),
            **{f"predicted_{key}": value for key, value in expected.items()},
        }
        report.results["links"][name] = _results(config, measured[name], predicted)


def _medians(timings: Mapping[str, harness.Timing]) -> dict[str, float]:
    return {way: timing.median for way, timing in timings.items()}


def _results(
    config: Config,
    timings: Mapping[str, harness.Timing],
    predicted: Mapping[str, Prediction] | None = None,
) -> dict[str, Any]:
    samples = config.steps * config.shape.batch_size
    return {
        name: {
            **timing.as_json(),
            "samples_per_s": samples / timing.median,
            **({"predicted_s": dataclasses.asdict(predicted[name])} if predicted else {}),
        }
        for name, timing in timings.items()
    }


def _print_table(links: Mapping[str, Mapping[str, Any]]) -> None:
    rows = []
    for name, results in links.items():
        for way, result in results.items():
            predicted = result.get("predicted_s")
            rows.append(
                [
                    name,
                    way,
                    round(result["samples_per_s"]),
                    result["median_s"],
                    result["min_s"],
                    result["max_s"],
                    "{expected:.2f} ({at_least:.2f} to {at_most:.2f})".format(**predicted)
                    if predicted
                    else "",
                    result["median_s"] / results["AMS"]["median_s"],
                ]
            )
    header = ["links", "", "samples/s", "s", "min", "max", "predicted s", "AMS is x faster"]
    print(harness.table(header, rows), "\n")


if __name__ == "__main__":
    program.run(main)
