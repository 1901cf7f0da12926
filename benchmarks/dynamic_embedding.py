"""A table without a vocabulary beside Keras' Embedding: lookups, updates, bytes, workers.

    python -m benchmarks.dynamic_embedding [--quick] [--keep]

In this process, for tables of V rows of D floats, each time with another batch of ids (Zipf):

  lookup   the layer's call without training. Keras: `Embedding(V)` behind `Hashing(V)`, as ids
           without a vocabulary are embedded there; and a DenseHashTable of the same rows
  update   one step of Adam on the distinct ids of the batch: the rows of the table, Keras' Adam and
           amstf's Adam on Keras' table
  step     lookup in training, gradient and update, dynamic only

Bytes per row: what the table says, and what the process has grown by; the overhead is what is not
weights and moments (20 bytes of a row's header, the index, what is not yet filled).

On local clusters of 1 to 4 workers and 2 servers: training steps a second, of a batch of ids each.
All share the cores of this machine, so that more workers cannot be faster than its cores.

`update_over_keras_adam_1e6` and `lookup_over_keras` are how many times faster the dynamic table is
(median of each; lookups of D = 12 at the largest V); `step_growth` is its step at the largest V
over that at the smallest.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import multiprocessing
import pathlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import amstf  # isort: skip - selects Keras 2 before TensorFlow is imported
import numpy as np
import tensorflow as tf
import tf_keras as keras

from amstf.layers import DynamicEmbedding
from amstf.optimizers import Adam
from benchmarks import chief, harness
from launch import program

_SPAWN = multiprocessing.get_context("spawn")
_SERVERS = 2
_FILL = 1 << 16  # Ids of one lookup while a table is filled.
_LARGEST_DENSE_HASH_TABLE = 1_000_000  # It takes minutes to fill a larger one.


@dataclasses.dataclass(frozen=True)
class Config:
    """One run.

    Attributes:
        tables: Rows (V) and width (D) of each table.
        ids: Ids of a batch.
        zipf: Exponent of their popularity.
        batches: Different batches, used in turn.
        repeats: Of each thing that is timed.
        seconds: For each table, at most.
        workers: Sizes of the clusters.
        cluster_rows: Ids that the batches on clusters are of.
        cluster_steps: Steps timed on each.
    """

    tables: tuple[tuple[int, int], ...] = (
        (100_000, 12),
        (1_000_000, 12),
        (10_000_000, 12),
        (100_000, 64),
        (1_000_000, 64),
    )
    ids: int = 8_192
    zipf: float = 1.05
    batches: int = 40
    repeats: int = 200
    seconds: float = 60.0
    workers: tuple[int, ...] = (1, 2, 4)
    cluster_rows: int = 1_000_000
    cluster_steps: int = 200


QUICK = Config(
    tables=((20_000, 12), (200_000, 12)),
    repeats=20,
    seconds=4.0,
    workers=(1,),
    cluster_rows=20_000,
    cluster_steps=20,
)


def popular_ids(config: Config, vocabulary: int, seed: int = 0) -> list[tf.Tensor]:
    """Batches of ids below `vocabulary`; the k-th most popular is drawn like k^-zipf."""
    rng = np.random.default_rng(seed)
    weights = np.arange(1, vocabulary + 1, dtype=np.float64) ** -config.zipf
    limits = np.cumsum(weights / weights.sum())
    names = rng.permutation(vocabulary)  # So that popular rows are not neighbours.
    drawn = [np.searchsorted(limits, rng.random(config.ids)) for _ in range(config.batches)]
    return [tf.constant(names[np.minimum(ranks, vocabulary - 1)], tf.int64) for ranks in drawn]


def fill(layer: DynamicEmbedding, vocabulary: int) -> None:
    """Lets ids 0 to V-1 be born, with the slots of Adam."""
    nothing = tf.IndexedSlices(tf.zeros([0, layer.width]), tf.zeros([0], tf.int64))
    layer.table.apply(nothing, "adam", [0.1, 0.9, 0.999, 1e-7], 1)
    for begin in range(0, vocabulary, _FILL):
        end = min(vocabulary, begin + _FILL)
        layer.table.lookup(tf.range(begin, end, dtype=tf.int64), True)


def resident_bytes() -> int:
    """Memory of this process at present."""
    status = pathlib.Path("/proc/self/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found, "this kernel does not tell"
    return int(found[1]) * 1024


def in_turn(function: Callable[[Any], Any], batches: list[Any]) -> Callable[[], Any]:
    """An action that calls a function with one batch after the other, and waits for the result."""
    waiting: Iterator[Any] = itertools.cycle(batches)
    return lambda: function(next(waiting)).numpy()


def updating(
    optimizer: Any, variable: tf.Variable, gradients: list[tuple[tf.Tensor, tf.Tensor]]
) -> Callable[[], Any]:
    """One update of a table by the gradient of each batch in turn, rows and their ids."""
    optimizer.build([variable])
    width = int(gradients[0][0].shape[1])
    shape = tf.constant(variable.shape.as_list(), tf.int64) if variable.shape.rank else None

    # Of any length, or it would be traced for each batch.
    @tf.function(
        input_signature=[
            tf.TensorSpec([None, width], tf.float32),
            tf.TensorSpec([None], tf.int64),
        ]
    )
    def update(values: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        optimizer.apply_gradients([(tf.IndexedSlices(values, rows, shape), variable)])
        return optimizer.iterations.read_value()

    return in_turn(lambda gradient: update(*gradient), gradients)


def training_step(layer: DynamicEmbedding, optimizer: Any) -> Callable[[tf.Tensor], tf.Tensor]:
    """Forward, backward and update, to be traced."""

    def step(ids: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(layer(ids, training=True)))
        gradient = tape.gradient(loss, layer.anchor)
        optimizer.apply_gradients([(gradient, layer.anchor)])
        return loss

    return step


def measure_table(config: Config, vocabulary: int, width: int) -> dict[str, Any]:
    """Times all on tables of one size."""
    before = resident_bytes()
    layer = DynamicEmbedding(width)
    layer.build(None)
    start = time.perf_counter()
    fill(layer, vocabulary)
    seconds = time.perf_counter() - start
    grown = resident_bytes() - before
    counters = layer.table.counters()
    assert counters["rows"] == vocabulary, counters

    ids = popular_ids(config, vocabulary)
    distinct = [tf.unique(batch)[0] for batch in ids]
    gradients = [(tf.random.stateless_normal([len(one), width], [0, 1]), one) for one in distinct]
    embedding, hashing = keras.layers.Embedding(vocabulary, width), keras.layers.Hashing(vocabulary)
    embedding.build(None)
    adams: list[Any] = [Adam(0.01), Adam(0.01), Adam(0.01), keras.optimizers.Adam(0.01)]
    adams[3].jit_compile = False

    @tf.function
    def look_up(batch: tf.Tensor) -> tf.Tensor:
        return layer(batch, training=False)

    @tf.function
    def look_up_keras(batch: tf.Tensor) -> tf.Tensor:
        return embedding(hashing(batch))

    lookups = {
        "lookup, dynamic": in_turn(look_up, ids),
        "lookup, Keras": in_turn(look_up_keras, ids),
    }
    if vocabulary <= _LARGEST_DENSE_HASH_TABLE:
        hash_table = _dense_hash_table(vocabulary, width)
        lookups["lookup, DenseHashTable"] = in_turn(tf.function(hash_table.lookup), ids)
    updates = {
        "update, dynamic": updating(adams[0], layer.anchor, gradients),
        "update, amstf Adam": updating(adams[1], embedding.embeddings, gradients),
        "step, dynamic": _traced_step(layer, adams[2], ids),
    }
    # By itself: it goes through all of its table, and leaves the caches empty to whoever is next.
    alone = {"update, Keras Adam": updating(adams[3], embedding.embeddings, gradients)}
    timings = {}
    for actions in (lookups, updates, alone):
        timings |= harness.measure_together(
            actions, repeats=config.repeats, warm_up=3, seconds=config.seconds / 3
        )
    values = 3 * 4 * width  # Weights and two moments.
    return {
        "fill_seconds": seconds,
        "distinct_ids": float(np.mean([len(one) for one in distinct])),
        "bytes_per_row": counters["bytes"] / vocabulary,
        "bytes_per_row_resident": grown / vocabulary,
        "bytes_per_row_overhead": counters["bytes"] / vocabulary - values,
        "timings": {
            name: {
                **timing.as_json(),
                "p99_s": float(np.percentile(timing.seconds, 99)),
                "ids_per_s": config.ids / timing.median,
            }
            for name, timing in timings.items()
        },
    }


def _traced_step(layer: DynamicEmbedding, optimizer: Any, ids: list[tf.Tensor]) -> Any:
    optimizer.build([layer.anchor])
    return in_turn(tf.function(training_step(layer, optimizer)), ids)


def _dense_hash_table(vocabulary: int, width: int) -> Any:
    table = tf.lookup.experimental.DenseHashTable(
        tf.int64,
        tf.float32,
        default_value=tf.zeros([width]),
        empty_key=-1,
        deleted_key=-2,
        initial_num_buckets=1 << (2 * vocabulary - 1).bit_length(),
    )
    for begin in range(0, vocabulary, _FILL):
        keys = tf.range(begin, min(vocabulary, begin + _FILL), dtype=tf.int64)
        table.insert(keys, tf.zeros([len(keys), width]))
    return table


def train_on_cluster(job: dict[str, Any]) -> dict[str, Any]:
    """As the chief of a cluster: training steps a second."""
    config = Config(**job)
    strategy = chief.connect(amstf.AmsConfig())
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    with strategy.scope():
        layer = DynamicEmbedding(12)
        layer.build(None)
        optimizer = Adam(0.01)
        optimizer.build([layer.anchor])
    fill(layer, config.cluster_rows)
    step = training_step(layer, optimizer)
    run = tf.function(lambda ids: strategy.run(step, args=(ids,)))
    ids = popular_ids(config, config.cluster_rows)

    def steps(count: int) -> None:
        for number in range(count):
            coordinator.schedule(run, args=(ids[number % len(ids)],))
        coordinator.join()

    steps(4 * strategy.num_workers)
    start = time.perf_counter()
    steps(config.cluster_steps)
    seconds = time.perf_counter() - start
    return {
        "steps_per_s": config.cluster_steps / seconds,
        "ids_per_s": config.cluster_steps * config.ids / seconds,
        "rows_by_server": [one["rows"] for one in layer.table.counters_by_server()],
    }


def main(arguments: list[str]) -> None:
    """Measures, prints two tables, and reports."""
    del arguments
    if chief.was_given_a_job():
        chief.do(train_on_cluster)
        return
    config = QUICK if harness.FLAGS.quick else Config()
    report = harness.Report("dynamic_embedding", config)
    tables = {}
    for vocabulary, width in config.tables:
        print(f"table of {vocabulary:,} rows of {width}", flush=True)
        # In a process of its own: memory that another table has left would be used again.
        with concurrent.futures.ProcessPoolExecutor(1, _SPAWN) as process:
            measured = process.submit(measure_table, config, vocabulary, width)
            tables[vocabulary, width] = measured.result()
    names = sorted({name for one in tables.values() for name in one["timings"]})
    header = ["ms: median / p99", *(f"{v:,} x {d}" for v, d in tables)]
    print(harness.table(header, [[name, *_cells(tables, name)] for name in names]))
    rows = [
        [name, *(one[name] for one in tables.values())]
        for name in ("bytes_per_row", "bytes_per_row_resident", "bytes_per_row_overhead")
    ]
    print("\n" + harness.table(["bytes", *header[1:]], rows))
    job = dataclasses.asdict(config)
    clusters = {
        str(workers): chief.run("benchmarks.dynamic_embedding", workers, _SERVERS, job)
        for workers in config.workers
    }
    print("\n" + harness.table(
        ["workers", "steps/s", "ids/s"],
        [[workers, one["steps_per_s"], one["ids_per_s"]] for workers, one in clusters.items()],
    ))  # fmt: skip
    _report(report, tables, clusters)


def _cells(tables: dict[tuple[int, int], Any], name: str) -> list[str]:
    timings = [one["timings"].get(name) for one in tables.values()]
    return [f"{1e3 * t['median_s']:.2f} / {1e3 * t['p99_s']:.2f}" if t else "" for t in timings]


def _report(report: harness.Report, tables: dict[tuple[int, int], Any], clusters: Any) -> None:
    def ratio(size: tuple[int, int], one: str, other: str) -> float:
        timings = tables[size]["timings"]
        return timings[other]["median_s"] / timings[one]["median_s"]

    narrow = sorted(size for size in tables if size[1] == 12)
    small, large = narrow[0], narrow[-1]
    million = (1_000_000, 12) if (1_000_000, 12) in tables else large
    report.ratios["update_over_keras_adam_1e6"] = ratio(
        million, "update, dynamic", "update, Keras Adam"
    )
    report.ratios["lookup_over_keras"] = ratio(large, "lookup, dynamic", "lookup, Keras")
    report.ratios["bytes_per_row_overhead"] = tables[million]["bytes_per_row_overhead"]
    report.ratios["step_growth"] = (
        tables[large]["timings"]["step, dynamic"]["median_s"]
        / tables[small]["timings"]["step, dynamic"]["median_s"]
    )
    report.results["tables"] = {f"{v} x {d}": one for (v, d), one in tables.items()}
    report.results["clusters"] = clusters
    report.finish()


if __name__ == "__main__":
    program.run(main)
