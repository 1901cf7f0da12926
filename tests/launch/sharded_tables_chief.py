"""Chief that restores checkpoints of a run with its tables split, and writes them again.

Arguments: directory of the run, min_shard_bytes, and pairs of checkpoints, from and to. Prints a
line of JSON: the number of shards of each table that is split.
"""

import json
import sys

import amstf  # isort: skip - selects Keras 2 before TensorFlow is imported
import tensorflow as tf

from amstf.optimizers import Adam
from launch import click_model, native_logs
from launch.run_directory import RunDirectory


def main(directory: str, min_shard_bytes: str, *paths: str) -> None:
    run = RunDirectory(directory)
    config = run.read_config()
    samples = amstf.Samples.open(config.dataset)
    stores = click_model.open_stores(samples)
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    with native_logs.quieted():
        strategy = amstf.AdvancedModelServerStrategy(
            resolver, amstf.AmsConfig(min_shard_bytes=int(min_shard_bytes))
        )
    with strategy.scope():
        model = click_model.make_model(config, samples.schema, stores)
        optimizer = Adam(config.learning_rate)
        optimizer.build(model.trainable_variables)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer)
    for source, target in zip(paths[::2], paths[1::2], strict=True):
        checkpoint.read(source).assert_existing_objects_matched().expect_partial()
        checkpoint.write(target)
    tables = [table.embeddings for table in model.id_embedding.tables.values()]
    print(json.dumps([len(getattr(table, "variables", [table])) for table in tables]))


if __name__ == "__main__":
    main(*sys.argv[1:])
