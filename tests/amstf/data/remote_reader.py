"""Reads a data set at s3://, trains on it with checkpoints there, and says what it saw (JSON)."""

import json
import sys

import tensorflow as tf
import tf_keras as keras

from amstf import ImageStore, Samples, optimizers
from amstf.data import find_bad_record
from amstf.errors import SampleError
from models import Dicm


def refusal(directory: str) -> str:
    try:
        return repr(Samples.open(directory))
    except SampleError as error:
        return str(error)


def main(directory: str, checkpoints: str) -> None:
    from launch.score import find_files  # Here: flags of programs clash where all are imported.

    samples = Samples.open(directory, checksums=True)
    users = [int(u) for b in samples.dataset("test", 7, only_inputs=False) for u in b["user"]]
    path = samples.image_store_path()
    store = ImageStore.open(path)

    def make() -> tuple[keras.Model, tf.train.CheckpointManager]:
        model = Dicm(samples.schema, images=store, hidden=(4,))
        optimizer = optimizers.Adam(0.01)
        model.compile(optimizer, "binary_crossentropy")
        model(next(iter(samples.dataset("test", 4)))[0])
        checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer)
        return model, tf.train.CheckpointManager(checkpoint, checkpoints, max_to_keep=1)

    model, manager = make()
    for _ in range(2):
        model.fit(samples.dataset("test", 8, repeat=True), steps_per_epoch=3, verbose=0)
        manager.save()
    batch = next(iter(samples.dataset("test", 8)))[0]
    fresh, again = make()
    again.checkpoint.restore(again.latest_checkpoint)
    report = {
        "users": users,
        "store": path,
        "again": samples.image_store_path(),
        "features": store.read(store.ids).sum().item(),
        "to_score": find_files(directory, "test"),
        "absent": refusal(f"{directory}/absent"),
        "bad": find_bad_record(samples, "test"),
        "checkpoints": [c.rpartition("/")[2] for c in again.checkpoints],
        "difference": float(tf.reduce_max(tf.abs(model(batch) - fresh(batch)))),
    }
    print(json.dumps(report))
    sys.exit(7)  # Neither lost nor replaced by the abort of AWS's library: see remote_files.


if __name__ == "__main__":
    main(*sys.argv[1:])
