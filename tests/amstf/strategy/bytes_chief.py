"""Chief of the test of counted bytes: what the servers count, and what the loopback device moves.

Arguments: directory for the image store, wire_dtype. Prints one line of JSON: for many and for few
images a step, bytes counted and bytes moved.
"""

import json
import pathlib
import sys

import amstf  # noqa: F401  # isort: skip - selects Keras 2 before TensorFlow is imported
import numpy as np
import tensorflow as tf
import tf_keras as keras

from amstf.config import AmsConfig
from amstf.layers import AmsEmbedding
from amstf.store import ImageStore, ImageStoreWriter
from amstf.strategy import AdvancedModelServerStrategy
from benchmarks import link_bytes
from launch import native_logs

MANY, FEW = 8000, 10
STEPS = 20


def main(directory: str, wire_dtype: str) -> None:
    path = pathlib.Path(directory, "images.h5")
    with ImageStoreWriter(path, width=4) as writer:
        writer.write(np.arange(MANY), np.ones([MANY, 4]))
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    with native_logs.quieted():
        strategy = AdvancedModelServerStrategy(resolver, AmsConfig(wire_dtype=wire_dtype))
    with strategy.scope():
        ids = keras.Input([], dtype=tf.int64)
        embedded = AmsEmbedding(ImageStore.open(path), keras.layers.Dense(12))(ids)
        model = keras.Model(ids, tf.reduce_sum(embedded, 1, keepdims=True))
        model.compile(keras.optimizers.SGD(1e-6), "mse")
    report = {}
    for name, count in (("many", MANY), ("few", FEW)):
        batch = tf.data.Dataset.from_tensors((tf.range(count, dtype=tf.int64), tf.ones([count, 1])))
        model.fit(batch.repeat(), steps_per_epoch=4, verbose=0)  # Traces, connects.
        before = strategy.ams.named_counters()["sum"]
        with link_bytes.loopback() as moved:
            model.fit(batch.repeat(), steps_per_epoch=STEPS, verbose=0)
        after = strategy.ams.named_counters()["sum"]
        counted = {key: after[key] - before[key] for key in ("bytes_in", "bytes_out", "ids_asked")}
        report[name] = {**counted, "moved": moved.bytes}
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
