"""Chief of the test of DynamicEmbedding on a cluster; prints one line of JSON.

The greatest differences between training here and on the servers, in the order of steps that one
process has; then what two workers at once have made of steps whose gradient is always 1.
"""

import json
import os
import sys

import amstf  # noqa: F401  # isort: skip - selects Keras 2 before TensorFlow is imported
import numpy as np
import tensorflow as tf
import tf_keras as keras

from amstf.config import AmsConfig
from amstf.dynamic import Admission, IncrementalCheckpoints
from amstf.layers import DynamicEmbedding
from amstf.optimizers import SGD, Adam
from amstf.strategy import AdvancedModelServerStrategy
from launch import native_logs

IDS = np.arange(60) * 10**12
STEPS = 6


def make(servers=None):
    layer = DynamicEmbedding(3, combiner="mean", seed=5, servers=servers)
    model = keras.Sequential([keras.Input([4], dtype=tf.int64), layer, keras.layers.Dense(1)])
    optimizer = Adam(keras.optimizers.schedules.ExponentialDecay(0.05, 4, 0.9))
    optimizer.build(model.trainable_variables)
    return layer, model, optimizer


def batch(step):
    rng = np.random.default_rng(step)
    ids = IDS[rng.integers(0, 60, (16, 4))]
    return tf.constant(ids), tf.constant(rng.normal(size=(16, 1)), tf.float32)


def step_of(model, optimizer):
    def step(ids, labels):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(ids, training=True) - labels) ** 2)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    return step


def train_local(model, optimizer):
    step = step_of(model, optimizer)
    return [step(*batch(number)).numpy() for number in range(STEPS)]


def train_on(strategy, coordinator, model, optimizer):
    step = step_of(model, optimizer)
    run = tf.function(lambda *data: strategy.run(step, args=data))
    # One after the other, on whichever worker is free.
    return [coordinator.schedule(run, args=batch(number)).fetch() for number in range(STEPS)]


def rows_of(layer):
    return layer.table.lookup(tf.constant(IDS, tf.int64), training=False).numpy()


def restore(model, optimizer, path):
    tf.train.Checkpoint(model=model, optimizer=optimizer).restore(path).expect_partial()


def sights(strategy, directory):
    """Ids that three servers have seen twice of three times get rows on three, two and none."""
    admission = Admission(after=3, filter_bytes=1 << 16)
    with strategy.scope():
        written, same, fewer = (
            DynamicEmbedding(3, admission=admission, servers=servers)
            for servers in (None, None, (0, 2))
        )
    ids = tf.constant(IDS, tf.int64)
    for seen in (ids, ids[:40]):
        written.table.lookup(seen, True)
    path = tf.train.Checkpoint(ids=written).write(os.path.join(directory, "sights"))
    rows = []
    for layer in (same, fewer, DynamicEmbedding(3, admission=admission)):
        tf.train.Checkpoint(ids=layer).restore(path)
        layer.table.lookup(ids, True)
        rows.append(layer.table.counters()["rows"])
    return rows


def increments(strategy, directory):
    """Three servers write a full checkpoint and increments; rows die; two servers read them."""
    with strategy.scope():
        written, read = DynamicEmbedding(3, seed=5), DynamicEmbedding(3, seed=5, servers=(0, 2))
    checkpoint = tf.train.Checkpoint(ids=written)
    manager = tf.train.CheckpointManager(checkpoint, directory, max_to_keep=9)
    saver = IncrementalCheckpoints(manager, [written.table], 9)
    for step, (first, last) in enumerate([(0, 40), (10, 20), (15, 60)], 1):
        ids = tf.constant(IDS[first:last], tf.int64)
        gradient = tf.IndexedSlices(written.table.lookup(ids, training=True), ids)
        written.table.apply(gradient, "adam", [0.1, 0.9, 0.999, 1e-7], step)
        if step == 3:
            evicted = written.table.evict("unseen_steps", 1)
        path = saver.save()
    tf.train.Checkpoint(ids=read).restore(path).assert_consumed()
    return {
        "evicted": evicted,
        "rows": [layer.table.counters()["rows"] for layer in (written, read)],
        "worst": float(np.abs(rows_of(read) - rows_of(written)).max()),
    }


def count_steps(strategy, steps):
    """Rows after steps of SGD at rate 1 whose gradient is 1."""
    with strategy.scope():
        layer = DynamicEmbedding(1, "sum", initializer="zeros")
        model = keras.Sequential([keras.Input([30], dtype=tf.int64), layer])
        model.compile(SGD(1.0), lambda labels, rows: tf.reduce_sum(rows, -1))
    data = tf.data.Dataset.from_tensors(([list(IDS[:30])], [[0.0]])).repeat()
    model.fit(data, epochs=1, steps_per_epoch=steps, verbose=0)
    return sorted(set(layer.table.lookup(tf.constant(IDS[:30]), False).numpy().ravel().tolist()))


def main(local_path: str, cluster_path: str) -> None:
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    with native_logs.quieted():
        strategy = AdvancedModelServerStrategy(resolver)
        plain = tf.distribute.ParameterServerStrategy(resolver)
        sync = AdvancedModelServerStrategy(resolver, AmsConfig(merge="sync"))
    report: dict = {"worst": {}}

    def compare(name, one, other):
        report["worst"][name] = float(np.max(np.abs(np.asarray(one) - np.asarray(other))))

    local_layer, local, local_optimizer = make()
    restore(local, local_optimizer, local_path)
    with strategy.scope():
        layer, model, optimizer = make()
        restore(model, optimizer, local_path)
    compare("restored from one process", rows_of(layer), rows_of(local_layer))
    tf.train.Checkpoint(model=model, optimizer=optimizer).write(cluster_path)
    wanted = train_local(local, local_optimizer)
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    compare("losses", train_on(strategy, coordinator, model, optimizer), wanted)
    compare("rows", rows_of(layer), rows_of(local_layer))
    report["rows_by_server"] = [one["rows"] for one in layer.table.counters_by_server()]

    with strategy.scope():
        layer, model, optimizer = make(servers=(0, 2))
        restore(model, optimizer, cluster_path)
    compare(
        "losses on two of the servers", train_on(strategy, coordinator, model, optimizer), wanted
    )
    compare("rows on two of the servers", rows_of(layer), rows_of(local_layer))

    report["sights"] = sights(strategy, os.path.dirname(cluster_path))
    report["increments"] = increments(strategy, os.path.dirname(cluster_path))

    coordinator = tf.distribute.coordinator.ClusterCoordinator(plain)
    with plain.scope():
        layer, model, optimizer = make()
        restore(model, optimizer, cluster_path)
    compare("losses, plain strategy", train_on(plain, coordinator, model, optimizer), wanted)

    report["async"] = count_steps(strategy, 60)
    report["sync"] = count_steps(sync, 40)
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
