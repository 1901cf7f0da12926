"""Adam under two workers that train the same variables at once, in real processes."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from amstf.optimizers import Adam
from tests.cluster import run_on_cluster

# All gradients are 1: with no memory (beta 0) a step moves each weight by the learning rate, so
# that the weights count the steps. A table of 2 rows is split over the servers.
CHIEF = """
    import json
    import sys
    from launch import native_logs
    with native_logs.quieted():
        import amstf
        import tensorflow as tf
        import tf_keras as keras
        from amstf.optimizers import Adam
        strategy = amstf.AdvancedModelServerStrategy(
            tf.distribute.cluster_resolver.TFConfigClusterResolver(),
            variable_partitioner=tf.distribute.experimental.partitioners.FixedShardsPartitioner(2),
        )
    with strategy.scope():
        ids = keras.Input([2], dtype=tf.int64)
        rows = keras.layers.Embedding(2, 3, embeddings_initializer="zeros")(ids)
        ones = tf.ones_like(tf.cast(ids, tf.float32))
        dense = keras.layers.Dense(2, kernel_initializer="zeros")(ones)
        outputs = tf.concat([tf.reduce_sum(rows, 1), dense], 1)
        model = keras.Model(ids, outputs)
        optimizer = Adam(1.0, beta_1=0.0, beta_2=0.0, epsilon=0.0)
        model.compile(optimizer, lambda labels, p: tf.reduce_sum(p, -1))
    batches = tf.data.Dataset.from_tensors(([[0, 1]] * 4, [[0.0]] * 4)).repeat()
    model.fit(batches, epochs=2, steps_per_epoch=150, verbose=0)
    tf.train.Checkpoint(model=model, optimizer=optimizer).write(sys.argv[1])
    tables = [v for v in model.trainable_variables if "embedding" in v.name]
    print(json.dumps({
        "steps": int(optimizer.iterations.numpy()),
        "shards": len({v.device for v in tables}),
        "weights": sorted({float(x) for v in model.trainable_variables
                           for x in tf.reshape(v, [-1]).numpy()}),
    }))
"""


@pytest.mark.slow
def test_every_step_of_every_worker_counts_once(tmp_path):
    path = str(tmp_path / "checkpoint")
    chief = run_on_cluster(CHIEF, workers=2, servers=2, timeout=150, arguments=(path,))
    assert chief.returncode == 0, chief
    report = json.loads(chief.stdout)
    assert report == {"steps": 300, "shards": 2, "weights": [-300.0]}

    # The two shards of the checkpoint, moments too, go into a table that is whole.
    ids = keras.Input([2], dtype=tf.int64)
    rows = keras.layers.Embedding(2, 3)(ids)
    dense = keras.layers.Dense(2)(tf.ones_like(tf.cast(ids, tf.float32)))
    model = keras.Model(ids, tf.concat([tf.reduce_sum(rows, 1), dense], 1))
    optimizer = Adam(1.0, beta_1=0.0, beta_2=0.0, epsilon=0.0)
    optimizer.build(model.trainable_variables)
    restored = tf.train.Checkpoint(model=model, optimizer=optimizer).read(path)
    restored.assert_existing_objects_matched()
    assert int(optimizer.iterations) == 300
    for variable in model.trainable_variables:
        np.testing.assert_array_equal(variable.numpy(), np.full(variable.shape, -300.0))
    table = optimizer._index_dict[optimizer._var_key(model.trainable_variables[0])]
    for moments in (optimizer._momentums, optimizer._velocities):
        np.testing.assert_array_equal(moments[table].numpy(), np.ones([2, 3]))
