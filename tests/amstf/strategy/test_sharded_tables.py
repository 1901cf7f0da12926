"""Which variables are split over the servers, on a real cluster."""

import json

import pytest

from tests.cluster import run_on_cluster

# The table and the kernel are 40 x 6 and 6 x 40 floats, 960 bytes.
CHIEF = """
    import json
    from launch import native_logs
    with native_logs.quieted():
        import amstf
        import numpy as np
        import tensorflow as tf
        import tf_keras as keras
        from amstf.optimizers import Adam
        from amstf.strategy import num_split, whole_weights

    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    numbers = np.arange(240, dtype=np.float32).reshape(40, 6)
    ids = tf.constant([39, 0, 20, 19, 13])

    def made_with(min_shard_bytes, partitioner=None):
        config = amstf.AmsConfig(min_shard_bytes=min_shard_bytes)
        with native_logs.quieted():
            strategy = amstf.AdvancedModelServerStrategy(resolver, config, partitioner)
        with strategy.scope():
            table = keras.layers.Embedding(
                40, 6, embeddings_initializer=keras.initializers.Constant(numbers)
            )
            model = keras.Sequential([table, keras.layers.Dense(40)])
            model.build([None])
            optimizer = Adam()
            optimizer.build(model.trainable_variables)
        np.testing.assert_array_equal(table(ids), numbers[ids])
        np.testing.assert_array_equal(whole_weights(model)[0], numbers)
        shards = table.weights
        moments = optimizer._momentums[: len(shards)]
        assert [(m.shape, m.device) for m in moments] == [(s.shape, s.device) for s in shards]
        return {
            "table": [shard.shape[0] for shard in shards],
            "servers": len({shard.device for shard in shards}),
            "kernel": [shard.shape[0] for shard in model.layers[1].weights[:-1]],
            "split": num_split(model),
        }

    print(json.dumps([
        made_with(100),
        made_with(480),
        made_with(960),
        made_with(0),
        made_with(0, tf.distribute.experimental.partitioners.MinSizePartitioner(960 // 2, 2)),
    ]))
"""


@pytest.mark.slow
def test_large_tables_are_split_and_nothing_else_unless_the_user_says_so():
    chief = run_on_cluster(CHIEF, workers=1, servers=3, timeout=150)
    assert chief.returncode == 0, chief
    much_smaller, half, equal, never, users = json.loads(chief.stdout)
    whole = {"table": [40], "servers": 1, "kernel": [6], "split": 0}
    assert much_smaller == {"table": [14, 13, 13], "servers": 3, "kernel": [6], "split": 1}
    assert half == {"table": [20, 20], "servers": 2, "kernel": [6], "split": 1}
    assert equal == never == whole
    assert users == {"table": [20, 20], "servers": 2, "kernel": [3, 3], "split": 2}
