"""Tables of ids that are split over the servers. Why so: docs/design/optimizers.md."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from amstf import compat

# The name that keras.layers.Embedding gives to its table.
_TABLE = "embeddings"


def split_tables(strategy: Any, min_shard_bytes: int, num_servers: int) -> None:
    """Makes a strategy without a partitioner split its tables of ids, and nothing else.

    TensorFlow's partitioner is told shape and type of a variable, and so would also split the
    kernel of a wide Dense layer, which every step then joins again.

    Args:
        strategy: A ParameterServerStrategy.
        min_shard_bytes: As in `AmsConfig`.
        num_servers: Parameter servers of the cluster (S).
    """
    if not min_shard_bytes or num_servers == 1:
        return
    extended = strategy.extended
    create_variable = extended._create_variable
    partitioner = tf.distribute.experimental.partitioners.MinSizePartitioner(
        min_shard_bytes, max_shards=num_servers
    )

    def create(next_creator: Any, **kwargs: Any) -> Any:
        extended._variable_partitioner = partitioner if kwargs.get("name") == _TABLE else None
        try:
            return create_variable(next_creator, **kwargs)
        finally:
            extended._variable_partitioner = None

    extended._create_variable = create


def whole_weights(model: keras.layers.Layer) -> list[np.ndarray]:
    """Returns the weights of a model with each table that is split over servers as one array.

    These are what `set_weights` of the same model takes where nothing is split, for example in one
    process; `model.get_weights()` has an array for each shard instead.

    Args:
        model: A model or layer with its variables, in any strategy or none.

    Example:
        >>> layer = keras.layers.Embedding(4, 1, embeddings_initializer="ones")
        >>> layer.build(None)
        >>> whole_weights(layer)[0].tolist()
        [[1.0], [1.0], [1.0], [1.0]]
    """
    parts: dict[int, list[np.ndarray]] = {}
    for variable in model.weights:
        whole = compat.sharded_variable_of(variable)
        parts.setdefault(id(variable if whole is None else whole), []).append(variable.numpy())
    return [shards[0] if len(shards) == 1 else np.concatenate(shards) for shards in parts.values()]


def num_split(model: keras.layers.Layer) -> int:
    """Returns how many tables of a model are split over servers."""
    wholes = (compat.sharded_variable_of(variable) for variable in model.weights)
    return len({id(whole) for whole in wholes if whole is not None})
