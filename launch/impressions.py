"""Counts the impressions that a training has taken in, so that a report can say: each once."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras as keras


def count(model: keras.Model) -> tf.Variable:
    """Makes a model count the samples of each training step that it makes from now on.

    The count is a variable of its own and no weight of the model, so that exports do not have it;
    keep it in the checkpoint, since it must go back with the weights. A step whose worker dies runs
    again on another: its batch counts twice if it had got so far, as its update does.

    Args:
        model: A model before its first `fit`; call this in the scope of its strategy.

    Returns:
        The count, int64 scalar.
    """
    seen = tf.Variable(
        0,
        dtype=tf.int64,
        trainable=False,
        name="impressions",
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )
    train_step = model.train_step

    def counting_train_step(batch: Any) -> Any:
        result = train_step(batch)
        _, label, _ = keras.utils.unpack_x_y_sample_weight(batch)
        first = tf.nest.flatten(label)[0]
        seen.assign_add(tf.shape(first, tf.int64)[0])
        return result

    model.train_step = counting_train_step
    return seen


def restore(seen: tf.Variable, path: str, otherwise: int) -> None:
    """Reads the count from a checkpoint that was saved with it as `impressions`.

    Args:
        seen: What `count` returned.
        path: Path of the checkpoint.
        otherwise: The count if the checkpoint has none: runs of earlier versions do not.
    """
    seen.assign(otherwise)
    tf.train.Checkpoint(impressions=seen).restore(path).expect_partial()


def sentence(expected: int, trained: int) -> str:
    """Says how what was trained compares with whole passes."""
    if trained == expected:
        return "each impression once a pass"
    more = trained - expected
    what = "more than once" if more > 0 else "not at all"
    return f"{abs(more):,} impressions {what}: their workers died, or the training was interrupted"
