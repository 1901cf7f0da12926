"""Chief of the test of memory: 2,000 steps, and the resident memory of all processes on the way.

Arguments: directory for the image store, merge. Prints one line of JSON.
"""

import json
import pathlib
import sys

import amstf  # noqa: F401  # isort: skip - selects Keras 2 before TensorFlow is imported
import numpy as np
import tensorflow as tf

from amstf.config import AmsConfig
from amstf.optimizers import Adam
from amstf.store import ImageStore, ImageStoreWriter
from amstf.strategy import AdvancedModelServerStrategy
from launch import native_logs
from models import Dicm, build, image_tower
from tests.cluster import pid_of
from tests.helpers import CLICK_SCHEMA, random_batch

# Memory is read after each.
STEPS = {"async": (500, 500, 1000), "sync": (100, 100, 200)}
PROCESSES = [("worker", 0), ("worker", 1), ("ps", 0), ("ps", 1)]


def resident_mb(pid: int) -> float:
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(pid)


def main(directory: str, merge: str) -> None:
    path = pathlib.Path(directory, "images.h5")
    with ImageStoreWriter(path, width=64) as writer:
        writer.write(np.arange(30), np.ones([30, 64]))
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    with native_logs.quieted():
        strategy = AdvancedModelServerStrategy(
            resolver, AmsConfig(merge=merge, merge_wait_ms=1, sync_every=3)
        )
    with strategy.scope():
        model = Dicm(CLICK_SCHEMA, ImageStore.open(path), embedding_model=image_tower((32, 4)))
        build(model, CLICK_SCHEMA)
        model.compile(Adam(0.001), "binary_crossentropy")
    batch = tf.nest.map_structure(
        lambda values: tf.constant(values, tf.string if values.dtype == object else None),
        random_batch(CLICK_SCHEMA, 32, 20),
    )
    data = tf.data.Dataset.from_tensors((batch, tf.ones([32, 1]))).repeat()
    pids = {f"{role}-{index}": pid_of(role, index) for role, index in PROCESSES}
    memory = []
    for number, steps in enumerate(STEPS[merge]):
        model.fit(data, initial_epoch=number, epochs=number + 1, steps_per_epoch=steps, verbose=0)
        memory.append({name: resident_mb(pid) for name, pid in pids.items()})
    report = {"memory": memory, "servers": strategy.ams.counters()}
    if strategy.ams.rounds is not None:
        report["rounds"] = strategy.ams.rounds.counters()
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
