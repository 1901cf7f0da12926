"""Chief of the tests of merging and model servers: 2 workers and 2 servers against one process.

Argument: directory for the image stores. Prints one line of JSON.
"""

import json
import pathlib
import sys

import amstf  # noqa: F401  # isort: skip - selects Keras 2 before TensorFlow is imported
import numpy as np
import tensorflow as tf
import tf_keras as keras

from amstf.config import ASYNC, SYNC, AmsConfig
from amstf.layers import AmsEmbedding
from amstf.store import ImageStore, ImageStoreWriter
from amstf.strategy import AdvancedModelServerStrategy
from launch import native_logs

NUM_IMAGES = 40
RUNS = 3  # Of each batch, so that both workers have some.


def tower(width: int) -> keras.Model:
    return keras.Sequential(
        [
            keras.layers.Dense(6, activation="tanh"),
            keras.layers.PReLU(),
            keras.layers.Dense(width),
        ]
    )


def make_model(stores: dict[str, ImageStore]) -> keras.Model:
    """Ads and behaviours share E and have servers of their own; shops have another E."""
    shared = tower(3)
    ads = AmsEmbedding(stores["ads"], shared, servers=(0,))
    behaviours = AmsEmbedding(stores["behaviours"], shared, missing="zeros", servers=(1,))
    shops = AmsEmbedding(stores["shops"], tower(2))
    ad = keras.Input([], dtype=tf.int64)
    clicked = keras.Input([None], dtype=tf.int64)
    shop = keras.Input([], dtype=tf.int64)
    joined = tf.concat([ads(ad), tf.reduce_sum(behaviours(clicked), 1), shops(shop)], 1)
    return keras.Model([ad, clicked, shop], keras.layers.Dense(1, activation="sigmoid")(joined))


def step(model: keras.Model, ad, clicked, shop, labels) -> list:
    with tf.GradientTape() as tape:
        predictions = model([ad, clicked, shop])
        loss = tf.reduce_mean(keras.losses.binary_crossentropy(labels, predictions))
    return [predictions, loss, *tape.gradient(loss, model.trainable_variables)]


def run_on(strategy, model, batches: list) -> list:
    """Batch -> run -> values."""
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    run = tf.function(
        lambda *batch: strategy.run(lambda *one: step(model, *one), args=batch),
        reduce_retracing=True,
    )
    scheduled = [
        [coordinator.schedule(run, args=tuple(map(tf.constant, batch))) for _ in range(RUNS)]
        for batch in batches
    ]
    coordinator.join()
    return [[one.fetch() for one in runs] for runs in scheduled]


def compare(expected: list, found: list, num_embedding: int) -> dict[str, float]:
    """Greatest differences: of what each run gives, and of the sums of E's gradients.

    Where requests merge, one run has E's gradient of all that met and the others have none.
    """
    worst = 0.0
    sums = [[0.0, 0.0] for _ in range(num_embedding)]
    skipped = 0
    for wanted, runs in zip(expected, found, strict=True):
        for values in runs:
            own = [0, 1, *range(2 + num_embedding, len(wanted))]
            worst = max([worst, *(float(np.max(np.abs(wanted[i] - values[i]))) for i in own)])
            for index, total in enumerate(sums):
                total[0] += wanted[2 + index]
                skipped += not np.size(values[2 + index])
                if np.size(values[2 + index]):
                    total[1] += np.reshape(values[2 + index], wanted[2 + index].shape)
    return {
        "own": worst,
        "embedding": max(float(np.max(np.abs(one - other))) for one, other in sums),
        "skipped": skipped,
    }


def main(directory: str) -> None:
    rng = np.random.default_rng(0)
    stores = {}
    for name, width in (("ads", 5), ("behaviours", 5), ("shops", 7)):
        path = pathlib.Path(directory, f"{name}.h5")
        with ImageStoreWriter(path, width=width) as writer:
            writer.write(np.arange(NUM_IMAGES), rng.normal(size=(NUM_IMAGES, width)))
        stores[name] = ImageStore.open(path)
    batches = [
        (
            rng.integers(0, NUM_IMAGES, size),
            rng.choice([-1, 999_983, *range(12)], (size, length)).astype(np.int64),
            rng.integers(-1, 5, size),
            rng.integers(0, 2, (size, 1)).astype(np.float32),
        )
        for size, length in ((7, 3), (1, 0), (30, 9))
    ]
    local = make_model(stores)
    weights = [rng.normal(0, 0.3, v.shape).astype("f4") for v in local.variables]
    local.set_weights(weights)
    expected = [
        [np.asarray(value) for value in step(local, *map(tf.constant, batch))] for batch in batches
    ]
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    report = {}
    for name, config in (
        ("none", AmsConfig()),
        ("async", AmsConfig(merge=ASYNC, merge_wait_ms=300)),
        ("async at once", AmsConfig(merge=ASYNC, merge_wait_ms=0)),
        ("bfloat16", AmsConfig(merge=ASYNC, wire_dtype="bfloat16")),
        ("sync without updates", AmsConfig(merge=SYNC)),
    ):
        with native_logs.quieted():
            strategy = AdvancedModelServerStrategy(resolver, config)
        with strategy.scope():
            model = make_model(stores)
            model.set_weights(weights)
        found = [
            [[np.asarray(value) for value in values] for values in runs]
            for runs in run_on(strategy, model, batches)
        ]
        counters = strategy.ams.counters()
        report[name] = {**compare(expected, found, 10), "servers": counters}
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1])
