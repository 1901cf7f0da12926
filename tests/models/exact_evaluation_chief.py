"""Chief of the test of exact evaluation. Argument: directory of a data set.

Prints one line of JSON: what was refused and why, and what was evaluated in which way.
"""

import json
import os
import pathlib
import sys

import amstf  # isort: skip - selects Keras 2 before TensorFlow is imported
import tensorflow as tf
import tf_keras as keras

from amstf.errors import ConfigError
from amstf.strategy import AdvancedModelServerStrategy
from launch import native_logs
from models import EmbeddingMlp, build

BATCH = 16


def make_model(data: str | pathlib.Path, **compiled) -> keras.Model:
    schema = amstf.Samples.open(data).schema
    model = EmbeddingMlp(schema, hidden=(8,))
    build(model, schema)
    model.compile(
        keras.optimizers.Adam(0.01),
        "binary_crossentropy",
        metrics=[keras.metrics.AUC()],
        **compiled,
    )
    return model


def main(data: str) -> None:
    samples = amstf.Samples.open(data)
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    with native_logs.quieted():
        strategy = AdvancedModelServerStrategy(resolver)
    with strategy.scope():
        model = make_model(data)
        sharded = make_model(data, pss_evaluation_shards="auto")
    batches = amstf.SharedBatches(samples, "train", BATCH)
    ordered = samples.dataset("train", BATCH)
    shuffled = samples.dataset("train", BATCH, shuffle=True)
    arrays = next(iter(samples.dataset("train", BATCH)))
    training = {"x": batches, "steps_per_epoch": batches.steps_per_pass, "verbose": 0}
    steps = {"validation_steps": batches.steps_per_pass}

    refused = {}
    for name, call in {
        "shuffled": lambda: model.fit(**training, validation_data=shuffled, **steps),
        "shuffled, in shards": lambda: sharded.fit(**training, validation_data=shuffled),
        "in order": lambda: model.fit(**training, validation_data=ordered, **steps),
        "arrays": lambda: model.fit(**training, validation_data=(arrays[1], arrays[1])),
        "split": lambda: model.fit(*arrays, validation_split=0.5, verbose=0),
        "evaluate": lambda: model.evaluate(ordered, steps=4, verbose=0),
    }.items():
        try:
            call()
        except ConfigError as error:
            refused[name] = str(error)
    steps_before = int(model.optimizer.iterations.numpy())

    with native_logs.filtered():
        fitted = model.fit(**training, validation_data=batches_in_order(samples), **steps)
        sharded.set_weights(model.get_weights())
        # Trains nothing: the rate is 0, so that both models have the same weights afterwards.
        sharded.optimizer.learning_rate = 0.0
        in_shards = sharded.fit(**training, validation_data=ordered)
        evaluated = sharded.evaluate(ordered, verbose=0)
    names = ("val_loss", "val_auc")
    report = {
        "refused": refused,
        "steps_before": steps_before,
        "shared": [float(fitted.history[name][-1]) for name in names],
        "shards": [float(v[-1]) for key, v in in_shards.history.items() if "val" in key],
        "evaluated": [float(value) for value in evaluated],
    }
    weights = [w.tolist() for w in model.get_weights()]
    pathlib.Path(data, "weights.json").write_text(json.dumps(weights))
    print(json.dumps(report), flush=True)
    # A strategy that is taken down may wait for its workers.
    os._exit(0)


def batches_in_order(samples: amstf.Samples) -> amstf.SharedBatches:
    return amstf.SharedBatches(samples, "train", BATCH, shuffle=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
