"""What a batch of a schema looks like to TensorFlow: shapes and types of the inputs of models."""

from __future__ import annotations

import tensorflow as tf

from amstf.schema import DENSE, WEIGHTED_SPARSE, Schema


def input_specs(schema: Schema) -> dict[str, tf.TensorSpec]:
    """Describes a padded batch of the schema's input fields, with B and T unknown.

    Args:
        schema: The fields; labels, groups and extras are no inputs.

    Returns:
        Key in the batch -> spec: ids [B] and lists [B, T] int64 or string, weights [B, T] and
        dense fields [B, length] float32.

    Example:
        >>> from amstf.schema import Field
        >>> schema = Schema((Field("user", "sparse", vocabulary_size=9), Field("click", "label")))
        >>> input_specs(schema)["user"]
        TensorSpec(shape=(None,), dtype=tf.int64, name='user')
    """
    specs: dict[str, tf.TensorSpec] = {}
    for field in schema.inputs:
        if field.kind == DENSE:
            specs[field.name] = tf.TensorSpec([None, field.length], tf.float32, field.name)
            continue
        shape = [None, None] if field.is_list else [None]
        specs[field.name] = tf.TensorSpec(shape, field.dtype, field.name)
        if field.kind == WEIGHTED_SPARSE:
            specs[field.weight_name] = tf.TensorSpec(shape, tf.float32, field.weight_name)
    return specs
