"""Trains a DICM on the cluster of TF_CONFIG, from a checkpoint to a checkpoint.

A program, run by test_on_a_cluster.py, which trains the same model in its own process.
"""

import json
import sys

import amstf  # isort: skip
import tensorflow as tf
import tf_keras as keras

from models import Dicm, build, image_tower
from tests.helpers import CLICK_SCHEMA, random_batch, tensors

_EPOCHS, _STEPS, _BATCH = 2, 6, 16


def make(store_path, checkpoint=None):
    """Makes the model, with all variables, and restores a checkpoint."""
    keras.utils.set_random_seed(3)
    model = Dicm(
        CLICK_SCHEMA,
        amstf.ImageStore.open(store_path),
        image_tower((6, 3)),
        "attentive",
        hidden=(8,),
        embeddings_regularizer=keras.regularizers.L2(0.01),
    )
    build(model, CLICK_SCHEMA)
    if checkpoint:
        tf.train.Checkpoint(model=model).restore(checkpoint).assert_existing_objects_matched()
    model.compile(keras.optimizers.SGD(0.5), "binary_crossentropy")
    return model


def train(model):
    """Trains it on data that is the same in every process."""
    features = tensors(random_batch(CLICK_SCHEMA, _BATCH * _STEPS, 4))
    labels = tf.cast(features["user"] % 2, tf.float32)[:, None]
    data = tf.data.Dataset.from_tensor_slices((features, labels)).batch(_BATCH).repeat()
    model.fit(data, epochs=_EPOCHS, steps_per_epoch=_STEPS, verbose=0)


def _main(store_path, start, directory):
    strategy = amstf.AdvancedModelServerStrategy(
        tf.distribute.cluster_resolver.TFConfigClusterResolver(),
        variable_partitioner=tf.distribute.experimental.partitioners.MinSizePartitioner(
            min_shard_bytes=64, max_shards=2
        ),
    )
    with strategy.scope():
        model = make(store_path, start)
    tables = [table.embeddings for table in model.id_embedding.tables.values()]
    train(model)
    print(
        json.dumps({
            "trained": tf.train.Checkpoint(model=model).save(f"{directory}/trained"),
            "shards": [len(getattr(table, "variables", [table])) for table in tables],
            "devices": sorted({w.device for w in model.weights}),
        })
    )  # fmt: skip


if __name__ == "__main__":
    _main(*sys.argv[1:])
