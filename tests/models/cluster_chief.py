"""Trains models on the cluster of TF_CONFIG, from checkpoints to checkpoints.

A program, run by test_on_a_cluster.py, which trains the same models in its own process.
"""

import functools
import json
import sys

import amstf  # isort: skip
import tensorflow as tf
import tf_keras as keras

from amstf.schema import Field, Schema
from models import Dicm, IdRegularization, TwoTower, build, image_tower
from models.id_embedding import of_width
from tests.helpers import CLICK_SCHEMA, random_batch, tensors

_EPOCHS, _STEPS, _BATCH = 2, 6, 16
_TWO_LABELS = Schema((*CLICK_SCHEMA.fields, Field("buy", "label")))
_TITLES = {"store": "titles"}
_TWO_STORES = Schema(
    (
        *CLICK_SCHEMA.fields,
        Field("title", "image", side="ad", source="image", **_TITLES),
        Field("liked_titles", "image", "user", True, source="liked_images", **_TITLES),
    )
)
_RULE = IdRegularization(l2=0.01, gate=2.0, gate_fields=("item", "liked"))

MODELS = {
    "mlp": lambda images: Dicm(
        CLICK_SCHEMA, *images, "attentive", hidden=(8,), embeddings_regularizer=_RULE
    ),
    "din": lambda images: Dicm(_TWO_LABELS, *images, "multi_query", hidden=(8,), base="din"),
    "lr": lambda images: Dicm(_TWO_LABELS, *images, "max", base="lr"),
    "deepfm": lambda images: Dicm(
        of_width(_TWO_LABELS, 3), *images, "sum", hidden=(8,), base="deepfm"
    ),
    "towers": lambda images: TwoTower(CLICK_SCHEMA, *images, hidden=(8, 4)),
    "two_stores": lambda images: Dicm(
        _TWO_STORES,
        dict.fromkeys(("images", "titles"), images[0]),
        functools.partial(image_tower, (6, 3)),
        "attentive",
        hidden=(8,),
    ),
}
"""Name -> what makes the model of a store and an E; what each has, another lacks."""


def make(name, store_path, checkpoint=None):
    """Makes a model, with all variables, and restores a checkpoint."""
    keras.utils.set_random_seed(3)
    images = amstf.ImageStore.open(store_path), image_tower((6, 3))
    model = MODELS[name](images)
    build(model, model.schema)
    if not checkpoint:
        model.id_embedding.count([features_of(model)])
    else:
        tf.train.Checkpoint(model=model).restore(checkpoint).assert_existing_objects_matched()
    model.compile(keras.optimizers.SGD(0.5), "binary_crossentropy")
    return model


def features_of(model):
    """Returns the inputs, in which further fields of a schema hold what their sources do."""
    return tensors(random_batch(model.schema, _BATCH * _STEPS, 4))


def train(model):
    """Trains it on data that is the same in every process."""
    features = features_of(model)
    clicks = tf.cast(features["user"] % 2, tf.float32)[:, None]
    labels = {"click": clicks, "buy": clicks * tf.cast(features["item"] % 2, tf.float32)[:, None]}
    target = labels if len(model.labels) > 1 else clicks
    data = tf.data.Dataset.from_tensor_slices((features, target)).batch(_BATCH).repeat()
    model.fit(data, epochs=_EPOCHS, steps_per_epoch=_STEPS, verbose=0)


def _main(store_path, directory):
    strategy = amstf.AdvancedModelServerStrategy(
        tf.distribute.cluster_resolver.TFConfigClusterResolver(),
        variable_partitioner=tf.distribute.experimental.partitioners.MinSizePartitioner(
            min_shard_bytes=64, max_shards=2
        ),
    )
    report = {}
    for name in MODELS:
        with strategy.scope():
            model = make(name, store_path, f"{directory}/{name}-start-1")
        # Again: what the checkpoint holds was counted elsewhere.
        model.id_embedding.count([features_of(model)])
        tables = [table.embeddings for table in model.id_embedding.tables.values()]
        train(model)
        report[name] = {
            "trained": tf.train.Checkpoint(model=model).save(f"{directory}/{name}-trained"),
            "shards": [len(getattr(table, "variables", [table])) for table in tables],
            "devices": sorted({w.device for w in model.weights}),
            "averages": [w.name for w in model.non_trainable_weights],
        }
    print(json.dumps(report))


if __name__ == "__main__":
    _main(*sys.argv[1:])
