"""Bytes that a training step moves, and that the data takes, in three ways to keep the images.

    python -m benchmarks.traffic [--quick] [--keep]

Table 2 of arXiv 1711.06505 at a shape of its kind: store-in-worker, store-in-server and AMS (see
`benchmarks.ways`) train the same model on the same samples, on a cluster of 2 workers and 2 servers
whose loopback device is their own. Counted in repeated runs of some steps, after a warm-up:

  total             what the loopback device moved, headers included; each byte is sent once
  server-server,    the same by pair of processes, from the kernel's counters of each connection
  worker-server,    (`benchmarks.link_bytes`); `accounted` says how much of the total they explain
  rest              everything with the chief (the scheduling of steps), and what the connections
                    do not explain, as packets that were sent again

What workers and servers tell each other is taken apart by difference, as one connection carries it
all. "No images" is the same network with zeros for images: what it moves is not about images (id
embeddings, weights of the click network, metrics). Store-in-worker moves that and E's weights, as
its images are in the samples. So:

  images of store-in-server = store-in-server - store-in-worker    (ids, features)
  images of AMS             = AMS - no images                      (ids, embeddings, gradients)

A step is one of one worker; an image that a step asks for more than once counts once.
"""

from __future__ import annotations

import dataclasses
import pathlib
import statistics
import tempfile
from typing import Any

from amstf.config import AmsConfig
from benchmarks import click_shape, harness, images_in_samples, link_bytes, network, ways
from benchmarks.click_shape import ClickShape
from launch import program

WORKER_SERVER = ("server", "worker")
SERVER_SERVER = ("server", "server")


@dataclasses.dataclass(frozen=True)
class Config:
    """One run.

    Attributes:
        shape: Sizes of model and data.
        ams: The knobs of AMS; it is run with float32 and with bfloat16 on the wire.
        num_workers: Workers (W).
        num_servers: Servers (S).
        warm_up: Steps before, not counted.
        exchanges: A run is `sync_every` times so many steps, for all ways.
        repeats: Runs of each way.
        exact: Whether to run AMS with `sync_every=1` too.
        samples_per_image: Of the data whose storage is reckoned: 3.9 G samples and 120 M images in
            the paper. The samples and images of this benchmark are only as many as it needs.
    """

    shape: ClickShape = dataclasses.field(default_factory=ClickShape)
    ams: AmsConfig = dataclasses.field(default_factory=ways.ams_of_flags)
    num_workers: int = 2
    num_servers: int = 2
    warm_up: int = 4
    exchanges: int = 2
    repeats: int = 3
    exact: bool = True
    samples_per_image: float = 32.5

    @property
    def steps(self) -> int:
        """Steps of a run: E is exchanged a whole number of times if no requests meet."""
        return self.exchanges * self.ams.sync_every

    @property
    def ways(self) -> tuple[ways.Way, ...]:
        """The ways to run; AMS and its variants come last."""
        variants = {
            "AMS": dataclasses.replace(self.ams, wire_dtype="float32"),
            "AMS, bfloat16": dataclasses.replace(self.ams, wire_dtype="bfloat16"),
        }
        if self.exact:
            variants["AMS, E each round"] = dataclasses.replace(self.ams, sync_every=1)
        ams = (ways.ams(knobs, name) for name, knobs in variants.items())
        return (ways.NONE, ways.WORKER, ways.SERVER, *ams)


def quick(config: Config) -> Config:
    """The same at sizes at which a run takes a minute or two."""
    return dataclasses.replace(
        config, shape=config.shape.quick(), warm_up=2, repeats=1, exact=False
    )


@dataclasses.dataclass(frozen=True)
class Bytes:
    """Bytes of one step.

    Attributes:
        total: All that the loopback device moved.
        worker_server: Between workers and servers, both ways.
        server_server: Between servers, both ways.
        accounted: Share of the total that the connections explain; 1 if all is understood.
    """

    total: float
    worker_server: float
    server_server: float
    accounted: float

    @property
    def rest(self) -> float:
        """What is neither: scheduling, and what connections do not explain."""
        return self.total - self.worker_server - self.server_server


def count_run(running: ways.RunningWay, steps: int, own_loopback: bool) -> Bytes:
    """Makes steps and counts their bytes."""
    connections = link_bytes.Connections()
    with link_bytes.loopback() as moved:
        running.steps(steps)
    pairs = connections.moved()
    of_roles = link_bytes.by_role(pairs, running.roles)
    mine = sum(count for pair, count in of_roles.items() if "other" not in pair)
    return Bytes(
        # On a loopback that is shared, the device counts the neighbours too.
        (moved.bytes if own_loopback else mine) / steps,
        of_roles.get(WORKER_SERVER, 0) / steps,
        of_roles.get(SERVER_SERVER, 0) / steps,
        mine / moved.bytes,
    )


def measure(config: Config, directory: pathlib.Path) -> dict[str, list[Bytes]]:
    """Runs all ways one after the other; bytes are not disturbed by a busy machine."""
    runs: dict[str, list[Bytes]] = {}
    with network.own_loopback() as own:
        if not own:
            print("the loopback device is shared: totals are those of the connections")
        for way in config.ways:
            print(f"{way.name}: starting {config.num_workers} workers, {config.num_servers} "
                  "servers and a chief", flush=True)  # fmt: skip
            with ways.RunningWay(
                way,
                config.shape,
                directory / way.name.replace(" ", "_"),
                click_shape.cache_directory(),
                num_workers=config.num_workers,
                num_servers=config.num_servers,
            ) as running:
                running.steps(config.warm_up)
                runs[way.name] = []
                for repeat in range(config.repeats):
                    counted = count_run(running, config.steps, own)
                    runs[way.name].append(counted)
                    print(f"  run {repeat + 1} of {config.repeats}: {config.steps} steps, "
                          f"{counted.total / 1e6:.3f} MB a step, "
                          f"{counted.accounted:.1%} accounted for", flush=True)  # fmt: skip
    return runs


def take_apart(runs: dict[str, list[Bytes]]) -> dict[str, dict[str, float]]:
    """Takes the median of the runs of each way and says what it is made of, bytes a step.

    Returns:
        Name of the way -> images, tower (E between workers and servers), other (between workers
        and servers), server_server, rest, total, and the least and greatest total.
    """
    median = {
        name: Bytes(
            *(
                statistics.median(getattr(run, field.name) for run in of_way)
                for field in dataclasses.fields(Bytes)
            )
        )
        for name, of_way in runs.items()
    }
    other = median[ways.NONE.name].worker_server
    tower = median[ways.WORKER.name].worker_server - other
    parts = {}
    for name, counted in median.items():
        its_tower = tower if name in (ways.WORKER.name, ways.SERVER.name) else 0.0
        parts[name] = {
            "images": counted.worker_server - other - its_tower,
            "tower": its_tower,
            "other": other,
            "server_server": counted.server_server,
            "rest": counted.rest,
            "total": counted.total,
            "total_min": min(run.total for run in runs[name]),
            "total_max": max(run.total for run in runs[name]),
            "accounted": counted.accounted,
        }
    return parts


def storage(config: Config, stored: dict[str, float], distinct: float) -> dict[str, float]:
    """Bytes on disk for a sample, from the sizes of real files.

    Args:
        config: The run.
        stored: From `images_in_samples.stored_bytes`.
        distinct: Distinct images of a step (U).

    Returns:
        For store-in-worker as it is, each sample with all its images; for a store-in-worker that
        keeps an image but once for all the samples of a step, which is more than the paper's
        common features save; and for AMS, where the store's share of a sample is counted.
    """
    carried = stored["sample_with_images"] - stored["sample"]
    image = carried / (config.shape.behaviours + 1)
    return {
        "store-in-worker": stored["sample_with_images"],
        "store-in-worker, once a step": stored["sample"]
        + image * distinct / config.shape.batch_size,
        "AMS": stored["sample"] + stored["image"] / config.samples_per_image,
    }


def main(arguments: list[str]) -> None:
    """Runs the benchmark."""
    del arguments
    config = Config()
    if harness.FLAGS.quick:
        config = quick(config)
    report = harness.Report("traffic", config)
    data = click_shape.prepare(config.shape)
    carrying = images_in_samples.prepare(data, config.num_workers)
    distinct = data.distinct_images(config.num_workers)
    with tempfile.TemporaryDirectory(prefix="amstf-traffic-") as directory:
        runs = measure(config, pathlib.Path(directory))
    parts = take_apart(runs)
    on_disk = storage(config, images_in_samples.stored_bytes(data, carrying), distinct)

    total = {name: part["total"] for name, part in parts.items()}
    per_image = {
        dtype: parts[name]["images"] / distinct
        for dtype, name in (("float32", "AMS"), ("bfloat16", "AMS, bfloat16"))
    }
    report.ratios |= {
        "worker_image_bytes_per_distinct_image": per_image,
        "total_ratio_to_store_in_server": total["store-in-server"] / total["AMS"],
        "total_ratio_to_store_in_server_bfloat16": total["store-in-server"]
        / total["AMS, bfloat16"],
        "total_ratio_to_store_in_worker": total["store-in-worker"] / total["AMS"],
        "storage_ratio_to_store_in_worker": on_disk["store-in-worker, once a step"]
        / on_disk["AMS"],
        "storage_ratio_to_store_in_worker_as_it_is": on_disk["store-in-worker"] / on_disk["AMS"],
        "distinct_images_per_step": distinct,
    }
    report.results = {"bytes_per_step": parts, "bytes_on_disk_per_sample": on_disk}
    _print_tables(config, distinct, parts, on_disk)
    report.finish()


def _print_tables(
    config: Config,
    distinct: float,
    parts: dict[str, dict[str, float]],
    on_disk: dict[str, float],
) -> None:
    shape = config.shape
    print(
        f"\na step: {shape.batch_size:,} samples, {distinct:,.0f} distinct images of "
        f"{shape.image_width:,} features; E has {shape.tower_weights:,} weights, exchanged every "
        f"{config.ams.sync_every} rounds, merge={config.ams.merge!r}\nkB a step:"
    )
    header = ["", "images", "E", "other", "server-server", "rest", "total", "min", "max",
              "B/image", "x less"]  # fmt: skip
    columns = ["images", "tower", "other", "server_server", "rest", "total", "total_min",
               "total_max"]  # fmt: skip
    baseline = parts[ways.SERVER.name]["total"]
    rows: list[list[Any]] = [
        [
            name,
            *(part[column] / 1e3 for column in columns),
            part["images"] / distinct,
            baseline / part["total"],
        ]
        for name, part in parts.items()
    ]
    print(harness.table(header, rows))
    print(
        f"\nstorage, kB a sample, {config.samples_per_image} samples an image, images as "
        f"{shape.image_dtype}:"
    )
    rows = [[name, value / 1e3, value / on_disk["AMS"]] for name, value in on_disk.items()]
    print(harness.table(["", "kB", "AMS is x less"], rows), "\n")


if __name__ == "__main__":
    program.run(main)
