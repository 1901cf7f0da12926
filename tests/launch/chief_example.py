"""A plain tf_keras program under ParameterServerStrategy, as the tests of the cluster run it."""

import os

from launch import program  # First: quiets TensorFlow.
from tests.cluster import connect

EPOCHS = int(os.environ.get("EPOCHS", "2"))


def main(arguments: list[str]) -> int:
    del arguments
    strategy = connect()
    import numpy as np
    import tensorflow as tf
    import tf_keras as keras

    with strategy.scope():
        model = keras.Sequential([keras.layers.Dense(4, activation="relu"), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.05), "mse")

    def batches(context):
        del context
        x = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
        data = tf.data.Dataset.from_tensor_slices((x, x.sum(1, keepdims=True)))
        return data.repeat().batch(8)

    def say(epoch, logs):
        print(f"epoch {epoch} loss {logs['loss']:.3f}", flush=True)

    history = model.fit(
        keras.utils.experimental.DatasetCreator(batches),
        steps_per_epoch=20,
        epochs=EPOCHS,
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=say)],
    )
    places = {variable.device.split("/device")[0] for variable in model.trainable_variables}
    print("variables on", *sorted(places))
    return 0 if history.history["loss"][-1] < history.history["loss"][0] else 3


if __name__ == "__main__":
    program.run(main)
