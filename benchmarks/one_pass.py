"""Who reads each record once: one pass of `model.fit`, in several ways, with and without a death.

    python -m benchmarks.one_pass [--quick] [--keep]

On a local cluster of 2 workers a model is fitted for ceil(N / B) steps to one pass over N records.
Each step writes down which records it was given. Half-way through, a process is killed (`kill -9`):

  tf.data worker            one of the two tf.data workers beside the training workers
  tf.data worker, restarted the same, started again at its address after a second
  training worker           one of the two, which does not come back
  both                      one of each, as if they were one process

Then: how many records were in no step (lost), how often was one in a step again (twice), and how
did `fit` end: it returned, it raised an error, or it hung. Where processes race, one pass is not
like the next: the table gives least and greatest of several. "lost" and "twice" are the greatest.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import pathlib
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent import futures
from typing import Any

import amstf  # isort: skip - selects Keras 2 before TensorFlow is imported
import tensorflow as tf
import tf_keras as keras

from amstf import Samples, SharedBatches, ops
from benchmarks import chief, click_shape, harness, sharing
from benchmarks.click_shape import SPLIT, ClickShape
from benchmarks.data_service import DataService
from benchmarks.sharing import DISPENSER, SERVICE_BATCHES, SERVICE_FILES, SHARED
from launch import native_logs, program

NOBODY = "nobody"
READER, READER_RESTARTED = "tf.data worker", "tf.data worker, restarted"
WORKER, BOTH = "training worker", "both"
RETURNED, HUNG = "returned", "hung"

_OF_SERVICE = (NOBODY, READER, READER_RESTARTED, WORKER, BOTH)
_CASES = (
    *((SHARED, victim) for victim in (NOBODY, WORKER)),
    *((SERVICE_FILES, victim) for victim in _OF_SERVICE),
    *((SERVICE_BATCHES, victim) for victim in _OF_SERVICE),
    *((DISPENSER, victim) for victim in (NOBODY, WORKER)),
)
_SHAPE = ClickShape(image_width=8, images=8_192, samples=131_072, batch_size=64)


@dataclasses.dataclass(frozen=True)
class Config:
    """One run.

    Attributes:
        shape: Of the data.
        workers: Training workers (W), and tf.data workers.
        window: Records that a tf.data worker holds to shuffle, if it is handed files.
        cases: Way and victim.
        repeats: Passes of each case, each on a cluster of its own.
        hangs_after: When a pass is taken to hang: so long after its last step, seconds.
    """

    shape: ClickShape = _SHAPE
    workers: int = 2
    window: int = 1_000
    cases: tuple[tuple[str, str], ...] = _CASES
    repeats: int = 3
    hangs_after: float = 20


QUICK = dataclasses.replace(
    Config(),
    shape=dataclasses.replace(_SHAPE, samples=20_000),
    cases=((SHARED, WORKER), (SERVICE_BATCHES, READER), (DISPENSER, WORKER)),
    repeats=1,
    hangs_after=12,
)


@dataclasses.dataclass(frozen=True)
class Pass:
    """What came of one pass.

    Attributes:
        end: How `fit` ended: "returned", "hung", or the name of an error.
        batches: Steps that were given a batch.
        lost: Records that no step was given.
        twice: How often a step was given a record that another had been given.
        seconds: Of `fit`.
    """

    end: str
    batches: int
    lost: int
    twice: int
    seconds: float


def work(job: dict[str, Any]) -> dict[str, Any]:
    """As the chief: one pass."""
    samples = Samples.open(job["directory"])
    # Before there is a cluster: TensorFlow tells every worker of a new function, dead ones too.
    expected = keys_of_split(samples)
    with contextlib.ExitStack() as parts:
        seen = pathlib.Path(parts.enter_context(tempfile.TemporaryDirectory()))
        service = None
        if job["way"] in (SERVICE_FILES, SERVICE_BATCHES):
            service = parts.enter_context(DataService(job["workers"], chief.job_directory()))
        strategy = chief.connect(amstf.AmsConfig())
        with strategy.scope():
            model = make_model(seen)
            counter = tf.Variable(0, dtype=tf.int64, trainable=False)
        data = data_of(job, samples, service, counter)
        steps = -(-samples.num_records(SPLIT) // job["batch_size"])

        def done() -> int:
            return len(os.listdir(seen))

        with futures.ThreadPoolExecutor() as threads:
            killed = threads.submit(kill, job["victim"], service, lambda: done() >= steps // 2)
            begin = time.perf_counter()
            end = fit(model, data, steps, done, job["hangs_after"])
            seconds = time.perf_counter() - begin
            killed.result()
        time.sleep(0.5)  # A step that another's error has cancelled may still be writing.
        batches = [path.read_text().split() for path in seen.iterdir()]
        given = collections.Counter(int(key) for batch in batches for key in batch)
    assert given.keys() <= expected
    found = Pass(
        end, len(batches), len(expected - given.keys()), given.total() - len(given), seconds
    )
    return dataclasses.asdict(found)


def data_of(
    job: dict[str, Any], samples: Samples, service: DataService | None, counter: tf.Variable
) -> Any:
    """What `fit` reads in one way."""
    batch_size = job["batch_size"]
    if job["way"] == SHARED:
        return _SharedKeys(samples, SPLIT, batch_size)
    if service is None:
        create = keras.utils.experimental.DatasetCreator
        return create(
            lambda _: sharing.dispensed(
                samples, SPLIT, batch_size, read_keys, counter, repeat=False
            )
        )
    if job["way"] == SERVICE_FILES:
        pipeline = sharing.files(
            samples, SPLIT, batch_size, with_label, window=job["window"], repeat=False
        )
    else:
        pipeline = sharing.batches(samples, SPLIT, batch_size, read_keys, repeat=False)
    return keras.utils.experimental.DatasetCreator(service.share(pipeline))


class _SharedKeys(SharedBatches):
    def read(self, paths: tf.Tensor, offsets: tf.Tensor, sizes: tf.Tensor) -> Any:
        return read_keys(paths, offsets, sizes)


def keys(records: tf.Tensor) -> tf.Tensor:
    """What records are known by, int64 [B]; those of a split are checked to differ."""
    return tf.strings.to_hash_bucket_fast(records, 2**62)


def with_label(records: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """Makes of records what `fit` takes."""
    return {"key": keys(records)}, tf.zeros([tf.size(records), 1])


def read_keys(paths: tf.Tensor, offsets: tf.Tensor, sizes: tf.Tensor) -> Any:
    """Reads a batch; as `SharedBatches.read`."""
    return with_label(ops.read_records(paths, offsets, sizes))


def keys_of_split(samples: Samples) -> set[int]:
    """The keys of all records."""
    records = tf.data.TFRecordDataset(samples.files(SPLIT)).batch(4096)
    found = {int(key) for batch in records for key in keys(batch)}
    assert len(found) == samples.num_records(SPLIT), "two records are equal; take another seed"
    return found


class _Recorder(keras.layers.Layer):
    """Writes down the batch of a step, which takes some milliseconds; gives numbers to train on."""

    def __init__(self, directory: pathlib.Path) -> None:
        super().__init__()
        self._directory = str(directory)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        number = tf.as_string(tf.random.uniform([], maxval=2**62, dtype=tf.int64))
        path = tf.strings.join([self._directory, "/", number])
        text = tf.strings.reduce_join(tf.as_string(inputs), separator=" ")
        with tf.control_dependencies([tf.io.write_file(path, text)]):
            product = tf.ones([300, 300])
            for _ in range(10):
                product = tf.linalg.matmul(product, product) / 300
        return tf.cast(inputs % 1000, tf.float32)[:, None] * product[0, 0]


def make_model(directory: pathlib.Path) -> keras.Model:
    """A model that writes down what it is given."""
    key = keras.Input([], dtype=tf.int64, name="key")
    model = keras.Model({"key": key}, keras.layers.Dense(1)(_Recorder(directory)(key)))
    model.compile(keras.optimizers.SGD(1e-9), "mse")
    return model


def kill(victim: str, service: DataService | None, is_time: Callable[[], bool]) -> None:
    """Waits until it is time, and kills."""
    while victim != NOBODY and not is_time():
        time.sleep(0.02)
    if victim in (WORKER, BOTH):
        os.kill(chief.pid_of("worker-0"), signal.SIGKILL)
    if victim in (READER, READER_RESTARTED, BOTH):
        assert service is not None
        service.kill(0)
    if victim == READER_RESTARTED:
        time.sleep(1)
        service.restart(0)


def fit(
    model: keras.Model, data: Any, steps: int, done: Callable[[], int], hangs_after: float
) -> str:
    """Fits a model and says how that ended."""
    ends = []

    def run() -> None:
        try:
            model.fit(data, steps_per_epoch=steps, verbose=0)
            ends.append(RETURNED)
        except Exception as error:
            ends.append(type(error).__name__)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    before, since = 0, time.monotonic()
    while thread.is_alive() and time.monotonic() - since < hangs_after:
        thread.join(0.2)
        if (now := done()) > before:
            before, since = now, time.monotonic()
    return ends[0] if ends else HUNG


def passes(config: Config, directory: str) -> dict[tuple[str, str], list[Pass]]:
    """Makes all passes; by way and victim."""
    found: dict[tuple[str, str], list[Pass]] = {}
    for _ in range(config.repeats):
        for way, victim in config.cases:
            job = {
                "directory": directory,
                "way": way,
                "victim": victim,
                "batch_size": config.shape.batch_size,
                **{name: getattr(config, name) for name in ("workers", "window", "hangs_after")},
            }
            # It is meant to die: nobody need be told.
            result = chief.run("benchmarks.one_pass", config.workers, 1, job, say=lambda line: None)
            done = Pass(**result)
            found.setdefault((way, victim), []).append(done)
            print(
                f"{way}, killed {victim}: {done.end}, {done.lost} lost, {done.twice} twice",
                flush=True,
            )
    return found


def spread(values: list[int]) -> str:
    """`3`, or `3-5` if they differ."""
    return f"{min(values)}-{max(values)}" if min(values) < max(values) else f"{values[0]}"


def main(arguments: list[str]) -> None:
    """Makes the passes, and prints one table."""
    del arguments
    if chief.was_given_a_job():
        with native_logs.filtered():
            chief.do(work)
            # A strategy that misses a worker waits for its return when it is taken down.
            os._exit(0)
    config = QUICK if harness.FLAGS.quick else Config()
    report = harness.Report("one_pass", config)
    samples = click_shape.prepare(config.shape).samples
    found = passes(config, str(samples.directory))
    rows = []
    for (way, victim), of_case in found.items():
        ends = collections.Counter(one.end for one in of_case)
        numbers = (
            spread([getattr(one, name) for one in of_case]) for name in ("batches", "lost", "twice")
        )
        rows.append([way, victim, ", ".join(f"{end} {n}x" for end, n in ends.items()), *numbers])
    steps = -(-config.shape.samples // config.shape.batch_size)
    print(f"\n{config.shape.samples:,} records, {steps} steps of {config.shape.batch_size}")
    print(harness.table(["way", "killed", "fit", "batches", "lost", "twice"], rows) + "\n")
    for name in ("lost", "twice"):
        report.ratios[name] = {
            f"{way}: {victim}": max(getattr(one, name) for one in of_case)
            for (way, victim), of_case in found.items()
        }
    report.results = {
        f"{way}: {victim}": [dataclasses.asdict(one) for one in of_case]
        for (way, victim), of_case in found.items()
    }
    report.finish()


if __name__ == "__main__":
    program.run(main)
