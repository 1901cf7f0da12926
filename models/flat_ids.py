"""The values of a field of ids without padding, and what becomes of their rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from amstf.errors import SchemaError
from amstf.schema import NO_ID, WEIGHTED_SPARSE, Field
from models.single_ids import check_dtype, groups_of, one_per_sample, per_sample, value_of


class FlatIds(NamedTuple):
    """The N values of a field that are not padding, whatever form the field came in."""

    values: tf.Tensor  # [N] int64 or string
    samples: tf.Tensor  # [N] int64, ascending: which row of the field a value belongs to
    weights: tf.Tensor | None  # [N] float32, of weighted fields
    batch_size: tf.Tensor  # []: rows of the field
    groups: tf.Tensor | None  # [B] int64: the row of each sample, of fields that samples share


def flat_ids(field: Field, inputs: Mapping[str, Any]) -> FlatIds:
    """Returns the values of a field that are not padding.

    Args:
        field: A sparse field.
        inputs: Name -> [B], [B, T] or ragged [B, (T)]; [U] or [U, T] where samples share rows.

    Raises:
        SchemaError: If the shape or type does not fit the field.
    """
    ids = value_of(field.name, inputs)
    weights = value_of(field.weight_name, inputs) if field.kind == WEIGHTED_SPARSE else None
    if not field.is_list:
        values = one_per_sample(field, ids)
        batch_size = tf.size(values, tf.int64)
        samples = tf.range(batch_size)
    elif isinstance(ids, tf.RaggedTensor):
        values, samples, batch_size = ids.values, ids.value_rowids(), ids.nrows()
        if weights is not None:
            weights = weights.values
    else:
        if ids.shape.rank != 2:
            raise SchemaError(f"field {field.name!r} has shape {ids.shape}; wanted [B, T]")
        size, length = tf.unstack(tf.shape(ids, tf.int64))
        values, batch_size = tf.reshape(ids, [-1]), size
        samples = tf.repeat(tf.range(size), length)
        if weights is not None:
            weights = tf.reshape(weights, [-1])
    check_dtype(field, values)
    is_string = values.dtype == tf.string
    if not is_string:
        values = tf.cast(values, tf.int64)
    kept = tf.where(values != ("" if is_string else tf.constant(NO_ID, tf.int64)))[:, 0]
    return FlatIds(
        tf.gather(values, kept),
        tf.gather(samples, kept),
        None if weights is None else tf.gather(weights, kept),
        batch_size,
        groups_of(field, inputs),
    )


def combine_rows(field: Field, rows: tf.Tensor, ids: FlatIds) -> tf.Tensor:
    """Combines [N, width] rows to [B, width], one for each sample."""
    weights = None if ids.weights is None else tf.cast(ids.weights, rows.dtype)
    if weights is not None:
        rows *= weights[:, None]
    combined = tf.math.unsorted_segment_sum(rows, ids.samples, ids.batch_size)
    if field.combiner == "mean":
        if weights is None:
            weights = tf.ones_like(ids.samples, rows.dtype)
        total = tf.math.unsorted_segment_sum(weights, ids.samples, ids.batch_size)
        combined = tf.math.divide_no_nan(combined, total[:, None])
    combined = tf.ensure_shape(combined, [None, field.embedding_width])
    return per_sample(combined, ids.groups)
