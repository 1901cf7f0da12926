"""Which data `evaluate` and `fit(validation_data=...)` count exactly on a cluster."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from amstf.errors import ConfigError
from amstf.strategy.coordinator import ScheduledBatches

_SHARED_BATCHES = (
    "give amstf.SharedBatches(samples, split, batch_size, shuffle=False) and as many steps as its "
    "steps_per_pass"
)


def check_evaluation_data(
    data: Any, strategy: tf.distribute.Strategy, num_shards: int, argument: str
) -> None:
    """Refuses data of which samples would count several times, or never.

    Under parameter servers each worker reads a dataset for itself, from its beginning. Keras can
    cut it in shards instead (`compile(pss_evaluation_shards=...)`), by positions, which is exact if
    all workers read it in the same order. `ScheduledBatches` are exact as they are, and where one
    process evaluates anything is.

    Args:
        data: What `evaluate` was given: dataset, batches, arrays, or a `DatasetCreator`.
        strategy: That of the model.
        num_shards: `pss_evaluation_shards` of the model, 0 without.
        argument: How the caller names the data, for the message.

    Raises:
        ConfigError: If the evaluation would not be exact.

    Example:
        >>> shuffled = tf.data.Dataset.range(8).shuffle(8)
        >>> check_evaluation_data(shuffled, tf.distribute.get_strategy(), 0, "validation_data")
    """
    if not isinstance(strategy, tf.distribute.ParameterServerStrategy):
        return
    if isinstance(data, ScheduledBatches):
        return
    if not num_shards:
        raise ConfigError(
            f"{argument} is {_described(data)}, which each worker reads for itself from the "
            "beginning, so that samples would count several times or never; "
            f"{_SHARED_BATCHES}, or compile the model with pss_evaluation_shards='auto'"
        )
    if isinstance(data, tf.data.Dataset) and is_shuffled(data):
        raise ConfigError(
            f"{argument} is a dataset that shuffles: workers read shards of it by position, each "
            "in another order, so that samples would count several times or never; leave the "
            f"shuffling out, which changes no metric, or {_SHARED_BATCHES}"
        )


def is_shuffled(dataset: tf.data.Dataset) -> bool:
    """Whether a dataset shuffles anywhere, so that its order may be another each time."""
    # What reads the data (tables, counters) need not be written down, only which steps there are.
    ignore_state = 1
    serialized = tf.raw_ops.DatasetToGraphV2(
        input_dataset=tf.data.experimental.to_variant(dataset), external_state_policy=ignore_state
    )
    graph = tf.compat.v1.GraphDef.FromString(serialized.numpy())
    nodes = [
        *graph.node,
        *(node for function in graph.library.function for node in function.node_def),
    ]
    return any(node.op.startswith("Shuffle") for node in nodes)


def _described(data: Any) -> str:
    if isinstance(data, tf.data.Dataset):
        return "a dataset"
    return f"of type {type(data).__name__}"
