"""Groups: impressions of one user stored as one record, the user's part once.

A group is a `tf.train.SequenceExample` ("common features", arXiv 1711.06505, section 4): its
context holds the fields that are the same for all its impressions (`Field.is_common`: inputs of
side "user", and group keys), its feature lists hold the other fields, one entry an impression.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import tensorflow as tf

from amstf.errors import SchemaError
from amstf.schema import Schema

GROUP_INDEX = "group.index"
"""Key in a batch of groups: to which group each impression belongs, int64 [B]."""

GROUP_SIZE = 32
"""Impressions of the longest group, by default."""


def check_can_be_grouped(schema: Schema) -> None:
    """Raises SchemaError if impressions of a schema cannot be stored in groups."""
    if GROUP_INDEX in schema:
        raise SchemaError(f"no field of grouped samples may be named {GROUP_INDEX!r}; rename it")
    for field in schema.fields:
        if field.source is None or field.is_common == schema[field.source].is_common:
            continue
        common, other = (field.name, field.source)[:: 1 if field.is_common else -1]
        raise SchemaError(
            f"field {field.name!r} reads its values from {field.source!r}, but in a group "
            f"{common!r} is stored once and {other!r} for each impression; "
            "give both side='user', or both another side"
        )


class GroupBuilder:
    """Makes records of consecutive impressions that have equal common fields.

    Args:
        schema: The fields.
        group_size: Impressions of the longest group; what is more begins another.

    Raises:
        SchemaError: If impressions of the schema cannot be stored in groups.
    """

    def __init__(self, schema: Schema, group_size: int) -> None:
        check_can_be_grouped(schema)
        common = [field for field in schema.stored if field.is_common]
        self._common = {name for f in common for name in (f.name, f.weight_name)}
        self._group_size = group_size
        self._key = b""
        self._begin()

    def _begin(self) -> None:
        self._group = tf.train.SequenceExample()
        self.size = 0  # Impressions of the group that is being made.

    def add(self, features: tf.train.Features) -> tuple[bytes, int] | None:
        """Adds an impression; returns the record before it and its size, if that is complete."""
        context = tf.train.Features()
        for name in self._common & features.feature.keys():
            context.feature[name].CopyFrom(features.feature[name])
        key = context.SerializeToString(deterministic=True)
        done = None
        if self.size and (key != self._key or self.size == self._group_size):
            done = self.take()
        if not self.size:
            self._group.context.CopyFrom(context)
            self._key = key
        lists = self._group.feature_lists.feature_list
        for name in features.feature.keys() - self._common:
            lists[name].feature.append(features.feature[name])
        self.size += 1
        return done

    def take(self) -> tuple[bytes, int]:
        """Returns the record that is being made and its size, and begins another."""
        record = self._group.SerializeToString(deterministic=True), self.size
        self._begin()
        return record


def is_group(record: bytes) -> bool:
    """Whether a serialized sample is a group; a `tf.train.Example` has no feature lists."""
    return bool(tf.train.SequenceExample.FromString(record).feature_lists.feature_list)


def impressions_of(record: bytes) -> list[bytes]:
    """Returns the impressions of a serialized group, each as a serialized `tf.train.Example`.

    Args:
        record: A `tf.train.SequenceExample` whose feature lists are of one length.

    Raises:
        ValueError: If they are not.
    """
    group = tf.train.SequenceExample.FromString(record)
    lists = {name: values.feature for name, values in group.feature_lists.feature_list.items()}
    if len({len(values) for values in lists.values()}) > 1:
        lengths = ", ".join(f"{name} {len(values)}" for name, values in sorted(lists.items()))
        raise ValueError(f"the feature lists of a group differ in length: {lengths}")
    examples = []
    for k in range(max(map(len, lists.values()), default=0)):
        example = tf.train.Example(features=group.context)
        for name, values in lists.items():
            example.features.feature[name].CopyFrom(values[k])
        examples.append(example.SerializeToString())
    return examples


def per_impression(
    batch: Mapping[str, tf.Tensor], schema: Schema, names: Iterable[str] | None = None
) -> dict[str, tf.Tensor]:
    """Repeats what a batch of groups holds once for each of its impressions.

    Args:
        batch: A batch as `Samples.dataset` gives it, of groups or not.
        schema: The fields.
        names: Keys of the batch that are wanted; all by default.

    Returns:
        The batch as if its samples were not grouped: all fields [B, ...], no `GROUP_INDEX`.

    Example:
        >>> from amstf.schema import Field
        >>> schema = Schema((
        ...     Field("user", "sparse", side="user", vocabulary_size=9), Field("click", "label")))
        >>> batch = {"user": tf.constant([7, 8]), GROUP_INDEX: tf.constant([0, 0, 1])}
        >>> per_impression(batch, schema)["user"].numpy().tolist()
        [7, 7, 8]
    """
    wanted = batch.keys() - {GROUP_INDEX} if names is None else names
    values = {name: batch[name] for name in wanted}
    index = batch.get(GROUP_INDEX)
    if index is None:
        return values
    common = {n for f in schema.fields if f.is_common for n in (f.name, f.weight_name)}
    return {
        name: tf.gather(value, index) if name in common else value for name, value in values.items()
    }
