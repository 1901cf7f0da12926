"""A training with incremental checkpoints that can be killed: DIRECTORY STEPS [WHEN STEP].

WHEN is "saving", in the middle of the checkpoint of that step, or "stepping", right after it.
"""

import os
import signal
import sys

import amstf  # noqa: F401  # isort: skip - selects Keras 2 before TensorFlow is imported
import numpy as np
import tensorflow as tf
import tf_keras as keras

from amstf.dynamic import IncrementalCheckpoints
from amstf.layers import DynamicEmbedding
from amstf.optimizers import Adam
from launch import checkpoints

SAVE_EVERY = 2
FULL_EVERY = 4


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def train(directory: str, steps: int, when: str = "", at: int = -1) -> DynamicEmbedding:
    """Goes on from the newest checkpoint; rows die at each third step."""
    keras.utils.set_random_seed(3)
    layer = DynamicEmbedding(3, combiner="mean", seed=5)
    model = keras.Sequential([keras.Input([4], dtype=tf.int64), layer, keras.layers.Dense(1)])
    model.compile(Adam(0.05), "mse")
    model.optimizer.build(model.trainable_variables)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    keep = IncrementalCheckpoints.checkpoints_to_keep(2, FULL_EVERY)
    manager = tf.train.CheckpointManager(checkpoint, directory, max_to_keep=keep)
    path = checkpoints.restore_newest(checkpoint, manager)
    first = checkpoints.step_of(path) if path else 0
    print(f"begins at {first}", flush=True)
    saver = IncrementalCheckpoints(manager, [layer.table], FULL_EVERY)
    pages = layer.table.pages

    def last_pages():
        yield from pages()
        kill()

    for step in range(first + 1, steps + 1):
        rng = np.random.default_rng(step)
        ids = tf.constant(rng.integers(0, 60, (16, 4)) * 10**12)
        model.train_on_batch(ids, rng.normal(size=(16, 1)))
        if step % 3 == 0:
            layer.table.evict("least_recent", 45)
        if (when, step) == ("saving", at):
            layer.table.pages = last_pages
        if step % SAVE_EVERY == 0:
            saver.save(checkpoint_number=step)
        if (when, step) == ("stepping", at):
            kill()
    return layer


if __name__ == "__main__":
    train(sys.argv[1], int(sys.argv[2]), *sys.argv[3:4], *map(int, sys.argv[4:5]))
