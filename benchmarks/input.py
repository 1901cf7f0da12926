"""What sharing batches among workers costs the reader: samples a second, with nothing trained.

    python -m benchmarks.input [--quick] [--keep]

On a local cluster each step takes a batch and throws it away:

  plain tf.data              each worker has a pipeline over its share of the files, with shuffling
                             and prefetching: nothing is shared
  shared batches             the chief names a batch, whichever worker is free reads it
  tf.data service, files     two tf.data workers, in processes beside the training workers, are
                             handed one file after the other; training workers take their batches
  tf.data service, batches   the same, but they are handed the place of one batch after the other
  dispenser on a server      each worker's pipeline asks a counter on the server for the next batch

The first two without a cluster too. What each does with a record when a process dies, and how a
pass ends, is `benchmarks.one_pass`.

One batch a step is what `model.fit` does; with several (Keras' `steps_per_execution`) shared
batches are read ahead too. Every second of a plain pipeline's prefetching is on the clock here,
because nothing else is to do: training hides it, and does not hide the reading of a shared batch.
The readers take turns, and between its turns a pipeline fills its buffers unseen, which is little
beside the batches of a repetition.

"dynamic_over_plain" is shared batches on the cluster, one batch a step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import amstf  # isort: skip - selects Keras 2 before TensorFlow is imported
import tensorflow as tf

from amstf import Samples, SharedBatches, ops
from amstf.data import parse_batch
from amstf.data.samples_reader import SHUFFLE_BUFFER, split_labels
from benchmarks import chief, click_shape, harness, sharing
from benchmarks.click_shape import SPLIT, ClickShape
from benchmarks.data_service import DataService
from benchmarks.sharing import DISPENSER, SERVICE_BATCHES, SERVICE_FILES, SHARED
from launch import native_logs, program

_SHAPE = ClickShape(image_width=8, images=8_192, samples=131_072, batch_size=256)
PLAIN = "plain tf.data"
# And what the ratios to the first are called.
READERS = {
    PLAIN: "",
    SHARED: "dynamic_over_plain",
    SERVICE_FILES: "service_files_over_plain",
    SERVICE_BATCHES: "service_batches_over_plain",
    DISPENSER: "dispenser_over_plain",
}


@dataclasses.dataclass(frozen=True)
class Config:
    """One run.

    Attributes:
        shape: Of the data.
        workers: Workers (W).
        together: Batches a step, besides 1.
        steps: Batches of a repetition.
        repeats: Repetitions; one before is warm-up.
    """

    shape: ClickShape = _SHAPE
    workers: int = 2
    together: int = 16
    steps: int = 1_536
    repeats: int = 5


QUICK = dataclasses.replace(
    Config(), shape=dataclasses.replace(_SHAPE, samples=8_192), steps=64, repeats=2
)


def plain(samples: Samples, batch_size: int, workers: int) -> tf.data.Dataset:
    """A shuffled pipeline of its own for each worker."""
    return samples.dataset(
        SPLIT,
        batch_size,
        shuffle=True,
        repeat=True,
        shard=(workers, lambda: ops.task_location()[1]) if workers > 1 else None,
    )


def work(job: dict[str, Any]) -> dict[str, list[float]]:
    """As the chief: seconds of each repetition, by reader and batches a step."""
    steps = job["steps"]
    samples = Samples.open(job["directory"])
    with (
        native_logs.filtered(),
        DataService(job["workers"], chief.job_directory()) as service,
    ):
        strategy = chief.connect(amstf.AmsConfig())
        coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)

        def read_all(iterator: Any, together: int) -> Callable[[], None]:
            def action() -> None:
                for _ in range(steps // together):
                    if together == 1:
                        coordinator.schedule(take_one, (iterator,))
                    else:
                        coordinator.schedule(take, (iterator, tf.constant(together)))
                coordinator.join()

            return action

        actions = {}
        for name, data in inputs(job, samples, strategy, service).items():
            iterator = iter(coordinator.create_per_worker_dataset(data))
            for together in (1, job["together"]):
                actions[_key(name, together)] = read_all(iterator, together)
        timings = harness.measure_together(actions, repeats=job["repeats"])
    return {key: list(timing.seconds) for key, timing in timings.items()}


def inputs(
    job: dict[str, Any], samples: Samples, strategy: tf.distribute.Strategy, service: DataService
) -> dict[str, Any]:
    """What the coordinator is given for each of `READERS`, without end."""
    batch_size = job["batch_size"]
    shared = SharedBatches(samples, SPLIT, batch_size)
    window = min(SHUFFLE_BUFFER, samples.num_records(SPLIT))
    label = samples.schema.labels[0]

    def parse(records: tf.Tensor) -> Any:
        return split_labels(parse_batch(records, (*samples.schema.inputs, label)), (label,))

    with strategy.scope():
        counter = tf.Variable(0, dtype=tf.int64, trainable=False)
    files = sharing.files(samples, SPLIT, batch_size, parse, window=window, repeat=True)
    batches = sharing.batches(samples, SPLIT, batch_size, shared.read, repeat=True)
    return {
        PLAIN: strategy.experimental_distribute_dataset(plain(samples, batch_size, job["workers"])),
        SHARED: shared,
        SERVICE_FILES: service.share(files),
        SERVICE_BATCHES: service.share(batches),
        DISPENSER: lambda: sharing.dispensed(
            samples, SPLIT, batch_size, shared.read, counter, repeat=True
        ),
    }


@tf.function
def take_one(iterator: Any) -> tf.Tensor:
    """A step that uses its batch for nothing."""
    return tf.shape(next(iterator)[1])


@tf.function
def take(iterator: Any, count: tf.Tensor) -> tf.Tensor:
    """Several of them."""
    samples = tf.constant(0)
    for _ in tf.range(count):
        samples += tf.shape(next(iterator)[1])[0]
    return samples


def without_cluster(samples: Samples, config: Config) -> dict[str, harness.Timing]:
    """The same in this process."""
    batch_size = config.shape.batch_size

    def read_all(batches: tf.data.Dataset) -> Callable[[], None]:
        iterator = iter(batches)

        def action() -> None:
            for _ in range(config.steps):
                next(iterator)

        return action

    shared = SharedBatches(samples, SPLIT, batch_size)
    actions = {
        _key(PLAIN, 0): read_all(plain(samples, batch_size, 1)),
        _key(SHARED, 0): read_all(shared.local()),
    }
    return harness.measure_together(actions, repeats=config.repeats)


def _key(reader: str, together: int) -> str:
    """Names what was measured; 0 batches a step: without a cluster."""
    return f"{reader}, {together}"


def main(arguments: list[str]) -> None:
    """Measures, and prints one table."""
    del arguments
    if chief.was_given_a_job():
        return chief.do(work)
    config = QUICK if harness.FLAGS.quick else Config()
    report = harness.Report("input", config)
    samples = click_shape.prepare(config.shape).samples
    job = {
        "directory": str(samples.directory),
        "batch_size": config.shape.batch_size,
        **{name: getattr(config, name) for name in ("workers", "together", "steps", "repeats")},
    }
    timings = without_cluster(samples, config)
    found = chief.run("benchmarks.input", config.workers, 1, job)
    timings |= {key: harness.Timing(tuple(seconds)) for key, seconds in found.items()}
    read = config.steps * config.shape.batch_size
    rows = []
    for where, together in (
        ("this process", 0),
        (f"{config.workers} workers, 1 batch a step", 1),
        (f"{config.workers} workers, {config.together} batches a step", config.together),
    ):
        for name, ratio in READERS.items():
            timing = timings.get(_key(name, together))
            if timing is None:  # Needs a cluster.
                continue
            slowest, fastest = (read / seconds for seconds in reversed(timing.spread))
            over = timings[_key(PLAIN, together)].median / timing.median
            rows.append(
                [where, name, round(read / timing.median), f"{slowest:.0f}-{fastest:.0f}", over]
            )
            key = "" if together == 1 else "_in_process" if not together else "_together"
            if ratio:
                report.ratios[f"{ratio}{key}"] = round(over, 3)
    print(harness.table(["where", "reader", "samples/s", "range", "x plain"], rows) + "\n")
    report.results = {key: timing.as_json() for key, timing in timings.items()}
    report.finish()
    return None


if __name__ == "__main__":
    program.run(main)
