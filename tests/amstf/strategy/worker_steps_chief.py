"""Chief of the tests of what workers are known to have done, and of one that is suspended.

Argument: directory for the image store. Prints one line of JSON.
"""

import json
import os
import pathlib
import signal
import sys
import time

import amstf  # noqa: F401  # isort: skip - selects Keras 2 before TensorFlow is imported
import numpy as np
import tensorflow as tf
import tf_keras as keras

from amstf import ops
from amstf.config import MERGES, NONE, AmsConfig
from amstf.layers import AmsEmbedding
from amstf.store import ImageStore, ImageStoreWriter
from amstf.strategy import AdvancedModelServerStrategy
from launch import native_logs
from tests.cluster import pid_of

STEPS, STEPS_AT_ONCE, CLOSURES = 12, 8, 60


def make_strategy(merge: str) -> AdvancedModelServerStrategy:
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    with native_logs.quieted():
        return AdvancedModelServerStrategy(resolver, AmsConfig(merge=merge))


def counts(strategy: AdvancedModelServerStrategy) -> dict[str, list[int]]:
    return {
        "steps": strategy.worker_steps().tolist(),
        "latest": strategy.latest_worker_steps().tolist(),
    }


def fit(strategy: AdvancedModelServerStrategy, store: ImageStore) -> dict[str, dict]:
    with strategy.scope():
        ids = keras.Input([4], dtype=tf.int64)
        embedded = AmsEmbedding(store, keras.layers.Dense(3))(ids)
        click = keras.layers.Dense(1, activation="sigmoid")(tf.reduce_sum(embedded, 1))
        model = keras.Model(ids, click)
        model.compile("sgd", "binary_crossentropy")
    data = tf.data.Dataset.from_tensors((tf.range(4, dtype=tf.int64)[None], [[1.0]])).repeat()
    found = {"begin": counts(strategy)}
    model.fit(data, steps_per_epoch=STEPS, validation_data=data, validation_steps=4, verbose=0)
    found["fit"] = counts(strategy)
    model.compile("sgd", "binary_crossentropy", steps_per_execution=STEPS_AT_ONCE // 2)
    model.fit(data, steps_per_epoch=STEPS_AT_ONCE, verbose=0)
    found["several at once"] = counts(strategy)
    model.evaluate(data, steps=4, verbose=0)
    found["evaluated"] = counts(strategy)
    return found


def train_while_one_is_suspended(strategy: AdvancedModelServerStrategy) -> dict:
    """Worker 1 is suspended just when the chief tells it that a result is no longer needed."""
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    with strategy.scope():
        weight = tf.Variable(1.0)
        optimizer = keras.optimizers.SGD(0.1)
        optimizer.build([weight])

    def train() -> tf.Tensor:
        optimizer.apply_gradients([(tf.constant(1.0), weight)])
        return ops.task_location()[1]

    step = tf.function(lambda: strategy.run(train))
    before = strategy.worker_steps()
    found = None
    while found is None:
        values = [coordinator.schedule(step) for _ in range(10)]
        coordinator.join()
        found = next((value for value in values if value.fetch() == 1), None)
    del values
    suspended = pid_of("worker", 1)
    os.kill(suspended, signal.SIGSTOP)
    del found
    time.sleep(0.5)
    then = strategy.worker_steps()
    scheduled = [coordinator.schedule(step) for _ in range(CLOSURES)]
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        now = strategy.worker_steps()
        if now.sum() - then.sum() >= CLOSURES - 1:
            break
        time.sleep(0.05)
    meanwhile, latest = now - then, strategy.latest_worker_steps()
    os.kill(suspended, signal.SIGCONT)
    coordinator.join()
    return {
        "meanwhile": meanwhile.tolist(),
        "latest": latest.tolist(),
        "all": int((strategy.worker_steps() - before).sum()),
        "updates": int(optimizer.iterations.numpy()),
        "scheduled": len(scheduled),
    }


def main(directory: str) -> None:
    path = pathlib.Path(directory, "images.h5")
    with ImageStoreWriter(path, width=5) as writer:
        writer.write(np.arange(4), np.ones([4, 5]))
    store = ImageStore.open(path)
    report = {merge: fit(make_strategy(merge), store) for merge in MERGES}
    report["suspended"] = train_while_one_is_suspended(make_strategy(NONE))
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
