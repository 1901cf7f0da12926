"""Chief of the test of placements: the same step on a cluster and in this process.

Prints one line of JSON: the greatest differences between the placements.
"""

import json
import sys

import numpy as np
import tensorflow as tf
import tf_keras as keras

import amstf  # noqa: F401 - selects Keras 2 before TensorFlow is imported
from amstf.config import AmsConfig
from amstf.layers import AmsEmbedding
from amstf.store import ImageStore
from amstf.strategy import AdvancedModelServerStrategy

WIDTH = 4


def make_model(store: ImageStore) -> tuple[AmsEmbedding, keras.Model]:
    tower = keras.Sequential(
        [keras.layers.Dense(8, activation="tanh"), keras.layers.PReLU(), keras.layers.Dense(WIDTH)]
    )
    layer = AmsEmbedding(store, tower, missing="zeros")
    ad = keras.Input([], dtype=tf.int64)
    behaviours = keras.Input([None], dtype=tf.int64)
    joined = tf.concat([ad[:, tf.newaxis], behaviours], 1)
    embedded = layer(joined)
    click = keras.layers.Dense(1, activation="sigmoid")(tf.reduce_sum(embedded, 1))
    return layer, keras.Model([ad, behaviours], click)


def step(model: keras.Model, ad: tf.Tensor, behaviours: tf.Tensor, labels: tf.Tensor) -> list:
    with tf.GradientTape() as tape:
        predictions = model([ad, behaviours])
        loss = tf.reduce_mean(keras.losses.binary_crossentropy(labels, predictions))
    return [predictions, loss, *tape.gradient(loss, model.trainable_variables)]


def main(store_path: str) -> None:
    store = ImageStore.open(store_path)
    rng = np.random.default_rng(0)
    batches = []
    for size, length in ((7, 3), (1, 0), (64, 9)):
        ids = rng.choice(np.append(store.ids[:40], [-1, 999_983]), (size, length + 1))
        batches.append((ids[:, 0], ids[:, 1:], rng.integers(0, 2, (size, 1)).astype("f4")))

    _, local = make_model(store)
    weights = [rng.normal(0, 0.3, v.shape).astype("f4") for v in local.variables]
    local.set_weights(weights)
    expected = [step(local, *map(tf.constant, batch)) for batch in batches]

    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    report = {}
    for placement in ("servers", "workers"):
        strategy = AdvancedModelServerStrategy(resolver, AmsConfig(placement=placement))
        coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
        with strategy.scope():
            layer, model = make_model(store)
            model.set_weights(weights)
        run = tf.function(lambda *batch, model=model: step(model, *batch), reduce_retracing=True)
        # Each batch is run as often as there are workers, so that each worker is likely to see it.
        results = [
            [coordinator.schedule(run, args=tuple(map(tf.constant, batch))) for _ in range(3)]
            for batch in batches
        ]
        coordinator.join()
        worst = 0.0
        for wanted, remote_values in zip(expected, results, strict=True):
            for remote_value in remote_values:
                for one, other in zip(wanted, remote_value.fetch(), strict=True):
                    one, other = tf.convert_to_tensor(one), tf.convert_to_tensor(other)
                    worst = max(worst, float(tf.reduce_max(tf.abs(one - other))))
        counters = strategy.ams.counters()
        report[placement] = {
            "placement": type(layer._placement).__name__,
            "worst": worst,
            "total": layer.counters(),
            "images": [server["images"] for server in counters],
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1])
