"""Adam and Adagrad of amstf beside those of Keras: time of a step by table size, and safety.

    python -m benchmarks.optimizer [--quick] [--keep]

Time: one step of the optimizer on an ID table of V rows of 12 floats of which a batch touched
8,192, in this process. Lazy updates cost the rows that were touched (and, as the table outgrows the
processor's caches, the wait for each of them); Keras' Adam costs the table.

Safety: on a local cluster of 2 workers and 2 servers, an embedding of 100 ids and a dense layer are
trained for 40 steps at a learning rate of 0.01, many times, with the table whole and split in two.
No weight can rightly go far from 1 in so few steps (40 x 0.01 = 0.4 from its beginning): a run
counts as bad if one is beyond 5.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from absl import flags

import amstf  # isort: skip - selects Keras 2 before TensorFlow is imported
import numpy as np
import tensorflow as tf
import tf_keras as keras

from amstf.optimizers import Adagrad, Adam
from benchmarks import harness
from launch import native_logs, program
from launch.local_cluster import LocalCluster

_CHIEF = flags.DEFINE_bool("chief", False, "Used by the benchmark itself: run on a cluster.")

OPTIMIZERS: dict[str, Callable[[float], keras.optimizers.Optimizer]] = {
    "amstf Adam": Adam,
    "Keras Adam": lambda rate: keras.optimizers.Adam(rate, jit_compile=False),
    "amstf Adagrad": Adagrad,
    "Keras Adagrad": lambda rate: keras.optimizers.Adagrad(rate, jit_compile=False),
}
BAD_WEIGHT = 5.0


@dataclasses.dataclass(frozen=True)
class Config:
    """One run.

    Attributes:
        vocabularies: Rows of the tables that are timed (V).
        touched: Rows that a batch touches.
        width: Floats of a row (D).
        repeats: Steps timed for each table and optimizer.
        seconds: Time for each table, at most.
        trainings: Trainings on the cluster for each optimizer and partitioning.
        steps: Steps of each.
    """

    vocabularies: tuple[int, ...] = (10_000, 100_000, 1_000_000, 10_000_000)
    touched: int = 8_192
    width: int = 12
    repeats: int = 30
    seconds: float = 20.0
    trainings: int = 12
    steps: int = 40


QUICK = Config(vocabularies=(10_000, 1_000_000), repeats=8, seconds=5.0, trainings=2)


def time_steps(config: Config, vocabulary: int) -> dict[str, harness.Timing]:
    """Times one step of each optimizer on a table of its own."""
    rows = np.random.default_rng(0).permutation(vocabulary)[: config.touched]
    gradient = tf.IndexedSlices(
        tf.random.stateless_normal([len(rows), config.width], [0, 0]),
        tf.constant(rows, tf.int64),
        tf.constant([vocabulary, config.width], tf.int64),
    )
    actions = {}
    for name, make in OPTIMIZERS.items():
        table = tf.Variable(tf.zeros([vocabulary, config.width]))
        optimizer = make(0.01)
        optimizer.build([table])

        @tf.function
        def step(optimizer: Any = optimizer, table: tf.Variable = table) -> tf.Tensor:
            optimizer.apply_gradients([(gradient, table)])
            return optimizer.iterations.read_value()

        actions[name] = lambda step=step: step().numpy()
    return harness.measure_together(
        actions, repeats=config.repeats, warm_up=2, seconds=config.seconds
    )


def train_on_cluster(config: Config) -> dict[str, list[float]]:
    """As the chief of a cluster: returns the greatest weight of every training."""
    greatest: dict[str, list[float]] = {}
    for shards in (1, 2):
        with native_logs.quieted():
            strategy = amstf.AdvancedModelServerStrategy(
                tf.distribute.cluster_resolver.TFConfigClusterResolver(),
                variable_partitioner=None
                if shards == 1
                else tf.distribute.experimental.partitioners.MinSizePartitioner(800, shards),
            )
        for name, make in OPTIMIZERS.items():
            for seed in range(config.trainings):
                weight = _train_once(strategy, make, config.steps, seed)
                greatest.setdefault(f"{name}, table in {shards}", []).append(weight)
    return greatest


def _train_once(
    strategy: tf.distribute.Strategy, make: Callable[[float], Any], steps: int, seed: int
) -> float:
    keras.utils.set_random_seed(seed)
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input([3], dtype=tf.int64),
                keras.layers.Embedding(100, 4),
                keras.layers.Flatten(),
                keras.layers.Dense(1, activation="sigmoid"),
            ]
        )
        model.compile(make(0.01), "binary_crossentropy")
    rng = np.random.default_rng(seed)
    ids, labels = rng.integers(0, 100, (4096, 3)), rng.integers(0, 2, (4096, 1))
    batches = tf.data.Dataset.from_tensor_slices((ids, labels)).shuffle(4096).repeat().batch(32)
    model.fit(batches, epochs=1, steps_per_epoch=steps, verbose=0)
    return max(float(np.abs(v.numpy()).max()) for v in model.trainable_variables)


def safety(config: Config) -> dict[str, list[float]]:
    """Starts the cluster and this module as its chief."""
    with tempfile.TemporaryDirectory() as directory:
        out = pathlib.Path(directory, "out")
        command = [sys.executable, "-m", "benchmarks.optimizer", "--chief"]
        command += ["--quick"] if harness.FLAGS.quick else []
        with LocalCluster(2, 2, directory) as cluster, open(out, "wb") as stdout:
            code = cluster.run_chief(command, stdout=stdout, timeout=900)
        if code:
            raise subprocess.CalledProcessError(code, command)
        return json.loads(out.read_text())


def main(arguments: list[str]) -> None:
    """Runs both parts and prints two tables."""
    del arguments
    config = QUICK if harness.FLAGS.quick else Config()
    if _CHIEF.value:
        assert "TF_CONFIG" in os.environ, "--chief is for the benchmark itself"
        print(json.dumps(train_on_cluster(config)))
        return
    report = harness.Report("optimizer", config)
    timings = {v: time_steps(config, v) for v in config.vocabularies}
    rows = [
        [name, *(1e3 * timings[v][name].median for v in config.vocabularies)] for name in OPTIMIZERS
    ]
    print(harness.table(["ms a step", *(f"V = {v:,}" for v in config.vocabularies)], rows))
    small, large = config.vocabularies[0], config.vocabularies[-1]
    for name in OPTIMIZERS:
        key = name.lower().replace(" ", "_")
        ratio = timings[large][name].median / timings[small][name].median
        report.ratios[f"{key}_step_growth"] = ratio
    report.results["steps"] = {
        name: {str(v): timings[v][name].as_json() for v in config.vocabularies}
        for name in OPTIMIZERS
    }
    greatest = safety(config)
    rows = [
        [name, max(weights), f"{sum(weight > BAD_WEIGHT for weight in weights)} of {len(weights)}"]
        for name, weights in greatest.items()
    ]
    print("\n" + harness.table(["2 workers, 2 servers", "greatest weight", "bad runs"], rows))
    report.results["greatest_weights"] = greatest
    report.ratios["bad_runs"] = {
        name: sum(weight > BAD_WEIGHT for weight in weights) for name, weights in greatest.items()
    }
    report.finish()


if __name__ == "__main__":
    program.run(main)
