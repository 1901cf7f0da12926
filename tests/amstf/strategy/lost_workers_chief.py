"""Chief of the tests of lost workers: 3 workers in synchronous rounds, and one goes.

Arguments: directory for the image store, what happens. Prints one line of JSON.
"""

import json
import os
import pathlib
import signal
import sys
import threading
import time

import amstf  # noqa: F401  # isort: skip - selects Keras 2 before TensorFlow is imported
import numpy as np
import tensorflow as tf
import tf_keras as keras

from amstf import ops
from amstf.config import SYNC, AmsConfig
from amstf.layers import AmsEmbedding
from amstf.store import ImageStore, ImageStoreWriter
from amstf.strategy import AdvancedModelServerStrategy
from launch import native_logs
from tests.cluster import pid_of

WORKERS = 3
TIMEOUT_MS = 3000
ROUNDS_BEFORE, ROUNDS_AFTER = 10, 20


def make_model(store: ImageStore) -> keras.Model:
    ids = keras.Input([4], dtype=tf.int64)
    embedded = AmsEmbedding(store, keras.layers.Dense(3))(ids)
    click = keras.layers.Dense(1, activation="sigmoid")(tf.reduce_sum(embedded, 1))
    model = keras.Model(ids, click)
    model.compile(keras.optimizers.SGD(0.01), "binary_crossentropy")
    return model


def kill_at(strategy: AdvancedModelServerStrategy, worker: int, said: dict) -> None:
    while strategy.ams.rounds.counters()["rounds"] < ROUNDS_BEFORE:
        time.sleep(0.02)
    os.kill(pid_of("worker", worker), signal.SIGKILL)
    said["killed_at"] = time.monotonic()
    said["rounds_then"] = strategy.ams.rounds.counters()["rounds"]


def fit_while_one_is_killed(strategy, model, worker: int) -> dict:
    said: dict = {}
    killer = threading.Thread(target=kill_at, args=(strategy, worker, said), daemon=True)
    killer.start()
    data = tf.data.Dataset.from_tensors((tf.range(4, dtype=tf.int64)[None], [[1.0]])).repeat()
    # As many steps as the living need for the rounds, whichever worker runs them.
    steps = WORKERS * ROUNDS_BEFORE + (WORKERS - 1) * ROUNDS_AFTER
    model.fit(data, steps_per_epoch=steps, verbose=0)
    killer.join()
    return {**said, "seconds_after": time.monotonic() - said.pop("killed_at")}


def train_while_one_has_no_data(strategy, model) -> dict:
    """Worker 1 has 5 batches, the others go on."""
    features = tf.range(4, dtype=tf.int64)[None]

    def batches() -> tf.data.Dataset:
        endless = tf.data.Dataset.from_tensors((features, [[1.0]])).repeat()
        return endless.enumerate().take_while(
            lambda number, _: (ops.task_location()[1] != 1) | (number < 5)
        )

    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    iterator = iter(coordinator.create_per_worker_dataset(batches))

    def train(ids, labels):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(
                keras.losses.binary_crossentropy(labels, model(ids, training=True))
            )
        gradients = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return tf.constant(0)

    @tf.function
    def step(iterator):
        batch = iterator.get_next_as_optional()
        if batch.has_value():
            strategy.run(train, args=batch.get_value()[1])
        else:
            # Not to use up all the steps that are scheduled.
            tf.py_function(lambda: time.sleep(0.05), [], [])

    with strategy.scope():
        model.optimizer.build(model.trainable_variables)
    begin = time.monotonic()
    while int(model.optimizer.iterations.numpy()) < ROUNDS_AFTER:
        for _ in range(4 * WORKERS):
            coordinator.schedule(step, args=(iterator,))
        coordinator.join()
    return {"seconds_after": time.monotonic() - begin, "rounds_then": 5}


def main(directory: str, what: str) -> None:
    path = pathlib.Path(directory, "images.h5")
    with ImageStoreWriter(path, width=5) as writer:
        writer.write(np.arange(4), np.ones([4, 5]))
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    with native_logs.quieted():
        strategy = AdvancedModelServerStrategy(
            resolver, AmsConfig(merge=SYNC, worker_timeout_ms=TIMEOUT_MS)
        )
    with strategy.scope():
        model = make_model(ImageStore.open(path))
    with native_logs.filtered():
        if what == "no data":
            report = train_while_one_has_no_data(strategy, model)
        else:
            report = fit_while_one_is_killed(strategy, model, worker=int(what))
    report["rounds"] = strategy.ams.rounds.counters()
    report["steps"] = int(model.optimizer.iterations.numpy())
    report["servers"] = strategy.ams.counters()
    report["finite"] = bool(all(np.isfinite(w).all() for w in model.get_weights()))
    print(json.dumps(report), flush=True)
    # A strategy that misses a worker waits for its return when it is taken down.
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
