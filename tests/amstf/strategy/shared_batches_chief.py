"""Chief of the tests of shared batches: what is trained in a pass, with workers killed on the way.

Arguments: directory of a data set, workers to kill in the first pass. Each step leaves the ids that
it trained in a file. Prints one line of JSON.
"""

import json
import os
import pathlib
import signal
import sys
import threading
import time

import amstf  # isort: skip - selects Keras 2 before TensorFlow is imported
import tensorflow as tf
import tf_keras as keras

from amstf import ops
from amstf.strategy import AdvancedModelServerStrategy
from launch import native_logs
from tests.cluster import pid_of

BATCH = 4
PASSES = 2


class Recorder(keras.layers.Layer):
    """Keeps what was trained, in files named by worker."""

    def __init__(self, directory: pathlib.Path) -> None:
        super().__init__()
        self._directory = str(directory)

    def call(self, ids, training=None):
        if not training:
            return ids
        number = tf.random.uniform([], maxval=2**62, dtype=tf.int64)
        name = tf.strings.join(
            [self._directory, "/", tf.as_string(ops.task_location()[1]), "-", tf.as_string(number)]
        )
        text = tf.strings.reduce_join(tf.as_string(ids), separator=" ")
        with tf.control_dependencies([tf.io.write_file(name, text)]):
            return tf.identity(ids)


def make_model(directory: pathlib.Path) -> keras.Model:
    user = keras.Input([], dtype=tf.int64, name="user")
    recorded = Recorder(directory)(user)
    click = keras.layers.Dense(1, activation="sigmoid")(keras.layers.Embedding(400, 2)(recorded))
    model = keras.Model({"user": user}, click)
    model.compile("sgd", "binary_crossentropy", metrics=[keras.metrics.AUC()])
    return model


def kill(workers: list[int], directory: pathlib.Path) -> None:
    """Kills workers one after the other, each once more steps were trained."""
    for number, worker in enumerate(workers, 1):
        while len(list(directory.iterdir())) < 10 * number:
            time.sleep(0.002)
        os.kill(pid_of("worker", worker), signal.SIGKILL)


def main(data: str, workers_to_kill: str) -> None:
    directory = pathlib.Path(data, "trained")
    directory.mkdir()
    samples = amstf.Samples.open(data)
    batches = amstf.SharedBatches(samples, "train", BATCH, fields=["user"], block_size=2)
    ordered = amstf.SharedBatches(samples, "train", BATCH, fields=["user"], shuffle=False)
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    with native_logs.quieted():
        strategy = AdvancedModelServerStrategy(resolver)
    with strategy.scope():
        model = make_model(directory)
    killer = threading.Thread(target=kill, args=(list(range(int(workers_to_kill))), directory))
    killer.start()
    with native_logs.filtered():
        fitted = model.fit(
            batches,
            steps_per_epoch=batches.steps_per_pass,
            epochs=PASSES,
            validation_data=ordered,
            validation_steps=ordered.steps_per_pass,
            verbose=0,
        )
        killer.join()
        evaluated = model.evaluate(ordered, steps=ordered.steps_per_pass, verbose=0)
    report = {
        "position": batches.position,
        "steps": int(model.optimizer.iterations.numpy()),
        "worker_steps": strategy.worker_steps().tolist(),
        "evaluated": evaluated,
        "validated": [fitted.history[name][-1] for name in ("val_loss", "val_auc")],
    }
    weights = model.get_weights()
    if not int(workers_to_kill):  # With workers lost, this process can compute nothing by itself.
        report["several"] = train_several_at_once(model, batches, directory)
    pathlib.Path(data, "weights.json").write_text(json.dumps([w.tolist() for w in weights]))
    print(json.dumps(report), flush=True)
    # A strategy that misses a worker waits for its return when it is taken down.
    os._exit(0)


def train_several_at_once(model, batches, directory: pathlib.Path) -> list[str]:
    """One more pass, four steps in a function; what it trained."""
    before = set(directory.iterdir())
    model.compile("sgd", "binary_crossentropy", steps_per_execution=4)
    model.fit(batches, steps_per_epoch=batches.steps_per_pass, verbose=0)
    return [path.read_text() for path in directory.iterdir() if path not in before]


if __name__ == "__main__":
    main(*sys.argv[1:])
