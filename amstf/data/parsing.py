"""Serialized samples to tensors: the one place that knows how a field is stored."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf

from amstf.data.groups import GROUP_INDEX
from amstf.schema import (
    DENSE,
    EXTRA,
    IMAGE,
    LABEL,
    NO_ID,
    WEIGHTED_SPARSE,
    Field,
)

WEIGHT_MISMATCH = "as many weights as ids"
"""Stands in the message of a record whose weights and ids differ in number."""

SIZE_MISMATCH = "an entry for each impression of its group"
VALUES_MISMATCH = "as many values in each entry as its field has"
"""Stand in the messages of a group whose feature lists are not of one length, or misshaped."""

LONGEST_LIST = 1 << 16
"""Values of the longest list that is padded: 512 KB for each row of the batch."""

LIST_TOO_LONG = f"has a list of more than {LONGEST_LIST:,} values"
"""Stands in the message of a record with such a list."""

_PADDING = {tf.int64: NO_ID, tf.string: "", tf.float32: 0.0}


def parse_batch(
    serialized: tf.Tensor, fields: Iterable[Field], *, ragged: bool = False
) -> dict[str, tf.Tensor | tf.RaggedTensor]:
    """Parses a batch of serialized `tf.train.Example`s, all of them in one op.

    Args:
        serialized: [B] string.
        fields: The fields to parse; what other fields need is skipped over.
        ragged: Whether lists come as RaggedTensors instead of being padded.

    Returns:
        For ids [B], for lists [B, T] padded with -1 (strings: with ""), T the longest of the batch
        and at most `max_length`; weights of a weighted sparse field [B, T] float32 padded with 0
        under `name.weight`; dense fields [B, length] and labels and extras [B, 1] float32.

    Raises:
        tf.errors.InvalidArgumentError: If a record is no Example or does not fit the fields.

    Example:
        >>> example = tf.train.Example()
        >>> example.features.feature["a"].int64_list.value.extend([4, 5])
        >>> field = Field("a", "sparse", is_list=True, vocabulary_size=9)
        >>> parse_batch(tf.constant([example.SerializeToString()]), [field])["a"].numpy().tolist()
        [[4, 5]]
    """
    fields = tuple(fields)
    return _batch(fields, tf.io.parse_example(serialized, feature_spec(fields)), ragged)


def parse_groups(
    serialized: tf.Tensor, fields: Iterable[Field], label: Field, *, ragged: bool = False
) -> dict[str, tf.Tensor | tf.RaggedTensor]:
    """Parses a batch of serialized groups of impressions, see `amstf.data.groups`.

    Args:
        serialized: [G] string, each a `tf.train.SequenceExample`.
        fields: The fields to parse.
        label: A field of kind label, by which impressions are counted.
        ragged: Whether lists come as RaggedTensors instead of being padded.

    Returns:
        What `parse_batch` returns, of fields that a group shares (`Field.is_common`) with G rows
        and of the others with B, and `GROUP_INDEX`: the group of each impression, int64 [B].

    Raises:
        tf.errors.InvalidArgumentError: If a record is no group or does not fit the fields.

    Example:
        >>> group = tf.train.SequenceExample()
        >>> group.context.feature["u"].int64_list.value.append(7)
        >>> for click in (0.0, 1.0):
        ...     group.feature_lists.feature_list["y"].feature.add().float_list.value.append(click)
        >>> user = Field("u", "sparse", side="user", vocabulary_size=9)
        >>> serialized, label = tf.constant([group.SerializeToString()]), Field("y", "label")
        >>> batch = parse_groups(serialized, [user, label], label)
        >>> [batch[name].numpy().tolist() for name in ("u", "y", GROUP_INDEX)]
        [[7], [[0.0], [1.0]], [0, 0]]
    """
    fields = tuple(fields)
    common = [field for field in fields if field.is_common]
    own = [field for field in (*fields, label) if not field.is_common]
    parsed, lists, _ = tf.io.parse_sequence_example(
        serialized,
        feature_spec(common),
        {
            name: tf.io.RaggedFeature(spec.dtype, row_splits_dtype=tf.int64)
            for name, spec in feature_spec(own).items()
        },
    )
    counted = lists[label.stored_name]
    parsed = {**parsed, **{name: _inner(name, list_, counted) for name, list_ in lists.items()}}
    for name, spec in feature_spec(own).items():
        if isinstance(spec, tf.io.FixedLenFeature):
            parsed[name] = _fixed(name, parsed[name], spec.shape)
    return {**_batch(fields, parsed, ragged), GROUP_INDEX: counted.value_rowids()}


def _inner(name: str, values: tf.RaggedTensor, counted: tf.RaggedTensor) -> tf.RaggedTensor:
    """Returns the values of all impressions, [B, (n)], of those of groups, [G, (k), (n)]."""
    check = tf.debugging.assert_equal(
        values.row_splits,
        counted.row_splits,
        message=f"feature list {name!r} needs {SIZE_MISMATCH}",
    )
    # tf.data prunes what no output depends on, see below.
    with tf.control_dependencies([check] if check is not None else []):
        inner = values.values
        return inner.with_values(tf.identity(inner.values))


def _fixed(name: str, values: tf.RaggedTensor, shape: list[int]) -> tf.Tensor:
    """Returns [B, *shape] of [B, (n)] if all n are what the shape says."""
    size = math.prod(shape)
    check = tf.debugging.assert_equal(
        values.row_lengths(),
        tf.constant(size, tf.int64),
        message=f"feature list {name!r} needs {VALUES_MISMATCH}, {size}",
    )
    with tf.control_dependencies([check] if check is not None else []):
        return tf.reshape(values.values, [-1, *shape])


def _batch(
    fields: tuple[Field, ...], parsed: Mapping[str, Any], ragged: bool
) -> dict[str, tf.Tensor | tf.RaggedTensor]:
    """Makes a batch of features by their stored names."""
    batch: dict[str, tf.Tensor | tf.RaggedTensor] = {}
    for field in fields:
        values = parsed[field.stored_name]
        if not field.is_list:
            batch[field.name] = values
            continue
        if field.kind == WEIGHTED_SPARSE:
            weights = parsed[field.weight_name]
            # tf.data prunes what no output depends on, so both outputs depend on the assertion.
            check = tf.debugging.assert_equal(
                values.row_splits,
                weights.row_splits,
                message=f"field {field.name!r} needs {WEIGHT_MISMATCH} in each record",
            )
            with tf.control_dependencies([check] if check is not None else []):
                weights = weights.with_values(tf.identity(weights.values))
                values = values.with_values(tf.identity(values.values))
            batch[field.weight_name] = _list(weights, field, ragged)
        batch[field.name] = _list(values, field, ragged)
    return batch


def feature_spec(fields: Iterable[Field]) -> Mapping[str, Any]:
    """Returns what `tf.io.parse_example` needs to know about the fields."""
    spec: dict[str, Any] = {}
    for field in fields:
        dtype = tf.string if field.dtype == "string" else tf.int64
        if field.kind in (LABEL, EXTRA):
            spec[field.stored_name] = tf.io.FixedLenFeature([1], tf.float32)
        elif field.kind == DENSE:
            spec[field.stored_name] = tf.io.FixedLenFeature([field.length], tf.float32)
        elif field.is_list:
            spec[field.stored_name] = tf.io.RaggedFeature(dtype, row_splits_dtype=tf.int64)
            if field.kind == WEIGHTED_SPARSE:
                spec[field.weight_name] = tf.io.RaggedFeature(tf.float32, row_splits_dtype=tf.int64)
        elif field.source is not None:
            # The source's own entry knows whether a sample may lack the value; it wins below.
            spec.setdefault(field.stored_name, tf.io.FixedLenFeature([], dtype, _PADDING[dtype]))
        elif field.kind == IMAGE:
            spec[field.stored_name] = tf.io.FixedLenFeature([], dtype, NO_ID)
        else:
            spec[field.stored_name] = tf.io.FixedLenFeature([], dtype)
    return spec


def _list(values: tf.RaggedTensor, field: Field, ragged: bool) -> Any:
    if field.max_length is not None:
        values = values[:, : field.max_length]
    if ragged:
        return values
    # One record with a list of millions would make every row of its batch as long.
    check = tf.debugging.assert_less_equal(
        values.row_lengths(),
        tf.constant(LONGEST_LIST, tf.int64),
        message=f"field {field.name!r} {LIST_TOO_LONG}; give it a max_length",
    )
    with tf.control_dependencies([check] if check is not None else []):
        values = values.with_values(tf.identity(values.values))
    return values.to_tensor(_PADDING[values.dtype])
