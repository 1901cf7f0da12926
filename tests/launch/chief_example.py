"""A plain tf_keras program under ParameterServerStrategy, as the tests of the cluster run it."""

import json
import os
import pathlib

from launch import program  # First: quiets TensorFlow.
from tests.cluster import connect

EPOCHS = int(os.environ.get("EPOCHS", "2"))


def listening() -> str:
    """Says on which addresses the tasks of the cluster listen, as the kernel sees it."""
    cluster = json.loads(os.environ["TF_CONFIG"])["cluster"]
    ports = {int(address.rpartition(":")[2]) for tasks in cluster.values() for address in tasks}
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in pathlib.Path(table).read_text().splitlines()[1:]:
            _, local, _, state = line.split()[:4]
            host, _, port = local.partition(":")
            if state == "0A" and int(port, 16) in ports:
                found.append(host.endswith("0100007F"))  # 127.0.0.1, alone or inside of IPv6.
    return f"listening: {sum(found)} on loopback, {len(found) - sum(found)} elsewhere"


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
    print(listening())
    return 0 if history.history["loss"][-1] < history.history["loss"][0] else 3


if __name__ == "__main__":
    program.run(main)
