"""The chief of a cluster of `benchmarks.ways`: makes the model and steps on demand."""

from __future__ import annotations

import multiprocessing.connection
import os
import time
from typing import Any

from launch import native_logs  # isort: skip - quiets TensorFlow before it is imported
import tensorflow as tf
import tf_keras as keras

import amstf
from amstf.optimizers import Adam
from benchmarks import click_shape, images_in_samples, ways
from launch import program


def main(arguments: list[str]) -> None:
    """Answers the benchmark that started this process until it hangs up."""
    del arguments
    with multiprocessing.connection.Client(os.environ[ways.ADDRESS], "AF_UNIX") as connection:
        way, shape, cache = connection.recv()
        with native_logs.filtered():
            stepper = Stepper(way, shape, cache)
            connection.send({})
            while True:
                try:
                    count = connection.recv()
                except EOFError:
                    return
                connection.send(stepper.steps(count))


class Stepper:
    """A model on the cluster that TF_CONFIG names, and the way to train it step by step.

    Steps are scheduled one by one, as Keras' `fit` does; each runs `Model.train_step` under
    `Strategy.run`, as there.

    Args:
        way: How the model gets its images.
        shape: The sizes.
        cache: Where the data is kept.
    """

    def __init__(self, way: ways.Way, shape: click_shape.ClickShape, cache: str) -> None:
        strategy = amstf.AdvancedModelServerStrategy(
            tf.distribute.cluster_resolver.TFConfigClusterResolver(), config=way.ams
        )
        self._coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
        num_workers = strategy.num_workers
        data = click_shape.prepare(shape, cache)
        carrying = None
        if way.images == ways.IN_SAMPLES:
            carrying = images_in_samples.prepare(data, num_workers)

        def batches() -> tf.data.Dataset:
            return data.batches(num_workers) if carrying is None else carrying.batches()

        keras.utils.set_random_seed(shape.seed)
        with strategy.scope():
            model = _model(way, data)
            model.compile(Adam(0.001), "binary_crossentropy")
            inputs, _ = batches().element_spec
            # As models.build does, which knows no images in the batch.
            tf.function(lambda inputs: model(inputs)).get_concrete_function(inputs)
            model.optimizer.build(model.trainable_variables)

        @tf.function
        def step(iterator: Any) -> dict[str, tf.Tensor]:
            return strategy.run(model.train_step, args=(next(iterator),))

        self._step = step
        self._iterator = iter(self._coordinator.create_per_worker_dataset(batches))

    def steps(self, count: int) -> dict[str, float]:
        """Makes steps and waits for the last.

        Returns:
            "seconds" for all of them, and the "loss" after the last.
        """
        begin = time.perf_counter()
        for _ in range(count):
            results = self._coordinator.schedule(self._step, args=(self._iterator,))
        self._coordinator.join()
        return {"seconds": time.perf_counter() - begin, "loss": float(results.fetch()["loss"])}


def _model(way: ways.Way, data: click_shape.ClickData) -> keras.Model:
    if way.images == ways.IN_SAMPLES:
        return images_in_samples.DicmOnCarriedImages(data.shape)
    if way.images == ways.NO_IMAGES:
        width = data.shape.embedding_width
        zeros = keras.layers.Lambda(lambda ids: tf.zeros([tf.size(ids), width]))
        return click_shape.make_model(data.shape, None, zeros)
    return click_shape.make_model(data.shape, data.store)


if __name__ == "__main__":
    program.run(main)
