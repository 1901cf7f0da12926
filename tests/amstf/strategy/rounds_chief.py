"""Chief of the proof of synchronous rounds: a cluster against one process on the union batches.

Arguments: directory for the image store, workers, "all cases" or not. Prints one line of JSON: for
each case the greatest relative difference of each weight, and what the servers counted.
"""

import json
import pathlib
import sys

import amstf  # noqa: F401  # isort: skip - selects Keras 2 before TensorFlow is imported
import numpy as np
import tensorflow as tf
import tf_keras as keras

from amstf import ops
from amstf.config import SYNC, AmsConfig
from amstf.layers import AmsEmbedding
from amstf.optimizers import Adagrad, Adam
from amstf.store import ImageStore, ImageStoreWriter
from amstf.strategy import AdvancedModelServerStrategy, whole_weights
from launch import native_logs
from models import Dicm, build, image_tower
from tests.helpers import CLICK_SCHEMA, random_batch

ROUNDS = 20
BATCH = 6
FEATURES = np.random.default_rng(7).normal(size=(30, 5)).astype(np.float32)


def decayed(learning_rate: float) -> keras.optimizers.schedules.LearningRateSchedule:
    return keras.optimizers.schedules.ExponentialDecay(learning_rate, 5, 0.9)


# Adam divides gradients by their own size: where one is almost zero it makes steps of the rounding
# errors of sums in another order, unless epsilon is above them.
EPSILON = 1e-4
# Share of clicks: few, so that a bias goes somewhere, and does not end beside zero by chance.
CLICKS = 0.2


def sgd() -> keras.optimizers.Optimizer:
    return keras.optimizers.SGD(0.1, momentum=0.9)


def adam() -> keras.optimizers.Optimizer:
    return Adam(decayed(0.01), epsilon=EPSILON)


# Optimizer, sync_every, min_shard_bytes.
CASES = {
    "SGD": (sgd, 1, 0),
    "Adagrad": (lambda: Adagrad(decayed(0.05)), 1, 0),
    "Adam": (adam, 1, 0),
    "SGD, every 3": (sgd, 3, 0),
}
# One cluster is enough for these.
MORE_CASES = {
    "Keras Adam": (
        lambda: keras.optimizers.Adam(0.01, epsilon=EPSILON, jit_compile=False),
        1,
        0,
    ),
    # The tables of 21 and 31 rows are split, that of 7 is not.
    "Adam, tables split": (adam, 1, 64),
}


def make_batches(workers: int) -> list[list[tuple[dict, np.ndarray]]]:
    """Round -> worker -> inputs and labels."""
    rng = np.random.default_rng(3)
    return [
        [
            (
                random_batch(CLICK_SCHEMA, BATCH, 4, seed=1000 * number + worker),
                (rng.random([BATCH, 1]) < CLICKS).astype(np.float32),
            )
            for worker in range(workers)
        ]
        for number in range(ROUNDS)
    ]


def dataset_of(batches: list[list[tuple[dict, np.ndarray]]]) -> tf.data.Dataset:
    """Each worker sees its own batch of each round."""
    stacked = tf.nest.map_structure(
        lambda *values: tf.constant(np.stack(values), as_string(values[0])),
        *[batch for of_round in batches for batch in of_round],
    )
    workers = len(batches[0])

    def batch_of(number: tf.Tensor) -> tuple:
        row = tf.cast(number, tf.int32) * workers + ops.task_location()[1]
        return tf.nest.map_structure(lambda values: values[row], stacked)

    return tf.data.Dataset.range(ROUNDS).map(batch_of)


def as_string(values: np.ndarray) -> tf.DType | None:
    return tf.string if values.dtype == object else None


def union(of_round: list[tuple[dict, np.ndarray]]) -> tuple:
    return tf.nest.map_structure(
        lambda *values: tf.constant(np.concatenate(values), as_string(values[0])), *of_round
    )


def make_model(store: ImageStore, make_optimizer) -> keras.Model:
    model = Dicm(
        CLICK_SCHEMA,
        store,
        embedding_model=image_tower((4, 3)),
        aggregator="attentive",
        hidden=(6,),
    )
    build(model, CLICK_SCHEMA)
    model.compile(
        make_optimizer(), "binary_crossentropy", metrics=[keras.metrics.MeanSquaredError()]
    )
    model.optimizer.build(model.trainable_variables)
    return model


def train_in_process(model: keras.Model, batches: list, make_optimizer, sync_every: int) -> None:
    """Rounds on their union batches; E gets the sum of `sync_every` rounds' gradients at once."""
    if sync_every == 1:
        for of_round in batches:
            model.train_on_batch(*union(of_round))
        return
    (layer,) = (part for part in model.submodules if isinstance(part, AmsEmbedding))
    tower = layer.embedding_model.trainable_variables
    others = [v for v in model.trainable_variables if all(v is not one for one in tower)]
    tower_optimizer = make_optimizer()
    sums = [tf.zeros_like(variable) for variable in tower]
    for number, of_round in enumerate(batches, 1):
        inputs, labels = union(of_round)
        with tf.GradientTape() as tape:
            loss = model.compute_loss(inputs, labels, model(inputs, training=True))
        gradients = tape.gradient(loss, [*tower, *others])
        model.optimizer.apply_gradients(zip(gradients[len(tower) :], others, strict=True))
        sums = [total + one for total, one in zip(sums, gradients[: len(tower)], strict=True)]
        if number % sync_every == 0:
            tower_optimizer.apply_gradients(zip(sums, tower, strict=True))
            sums = [tf.zeros_like(variable) for variable in tower]


def main(directory: str, workers: int, with_more_cases: bool) -> None:
    path = pathlib.Path(directory, "images.h5")
    with ImageStoreWriter(path, width=5) as writer:
        writer.write(np.arange(30), FEATURES)
    store = ImageStore.open(path)
    batches = make_batches(workers)
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    report = {}
    cases = {**CASES, **MORE_CASES} if with_more_cases else CASES
    for case, (make_optimizer, sync_every, min_shard_bytes) in cases.items():
        keras.utils.set_random_seed(1)
        local = make_model(store, make_optimizer)
        weights = local.get_weights()
        start = tf.train.Checkpoint(model=local).write(f"{directory}/start")
        train_in_process(local, batches, make_optimizer, sync_every)
        expected = local.get_weights()  # Before the cluster is there: what is in process goes then.
        names = [variable.name for variable in local.variables]
        losses = [
            local.test_on_batch(*union([batch])) for of_round in batches for batch in of_round
        ]

        config = AmsConfig(
            merge=SYNC,
            worker_timeout_ms=60_000,
            sync_every=sync_every,
            min_shard_bytes=min_shard_bytes,
        )
        with native_logs.quieted():
            strategy = AdvancedModelServerStrategy(resolver, config)
        with strategy.scope():
            model = make_model(store, make_optimizer)
            tf.train.Checkpoint(model=model).read(start).assert_existing_objects_matched()
        model.fit(dataset_of(batches), steps_per_epoch=ROUNDS * workers, verbose=0)
        # Keras' own, as ours takes these batches, of which each worker has others, for a dataset
        # that all read from the beginning.
        evaluated = keras.Model.evaluate(model, dataset_of(batches), steps=ROUNDS, verbose=0)
        trained = whole_weights(model)
        report[case] = {
            "differences": {
                name: float(np.max(np.abs(one - other)) / np.max(np.abs(one)))
                for name, one, other in zip(names, expected, trained, strict=True)
            },
            "moved": min(
                float(np.max(np.abs(one - other)))
                for one, other in zip(weights, trained, strict=True)
            ),
            "shards": len(model.weights) - len(weights),
            "steps": int(model.optimizer.iterations.numpy()),
            "evaluated": evaluated[0],
            # Of the batches of all workers; one worker has them all.
            "evaluated_in_process": float(np.mean([loss for loss, _ in losses])),
            "rounds": strategy.ams.rounds.counters(),
            "servers": strategy.ams.counters(),
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "all cases")
