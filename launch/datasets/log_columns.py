"""Columns of a log as fields: what a block of rows becomes, and what is stored of how."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from amstf.errors import SampleError
from amstf.schema import NO_ID, Field
from launch.datasets.columns import (
    ANY_ID,
    Rows,
    Vocabulary,
    hash_ids,
    integers,
    numbers,
    texts,
)
from launch.datasets.log_files import Block
from launch.datasets.number_columns import (
    LOG_BUCKET_IDS,
    NUMBER_MAPS,
    Bucketing,
    NumberMap,
    NumberStatistics,
    log_bucket_ids,
)


@dataclasses.dataclass
class Column:
    """A column of a log as a field.

    Attributes:
        field: Of the samples.
        map: From a block to a value for each of its rows, a list or an array.
        described: What is stored of how, as JSON.
    """

    field: Field
    map: Callable[[Block], Any]
    described: dict[str, object] = dataclasses.field(default_factory=dict)

    def __call__(self, block: Block) -> list[Any]:
        """Returns the values of a block's rows."""
        values = self.map(block)
        return values.tolist() if isinstance(values, np.ndarray) else values


def number_column(
    name: str, side: str, kind: str, buckets: int, width: int, spread: NumberStatistics | None
) -> Column:
    """Makes a column of numbers.

    Args:
        name: Of the column and of the field.
        side: Whose property it is.
        kind: One of `NUMBER_MAPS` or `BUCKETINGS`.
        buckets: Most buckets.
        width: Floats of the embedding of a bucket.
        spread: What is known of the training split; None if `kind` needs nothing.
    """

    def read(block: Block) -> np.ndarray:
        return numbers(block.columns[name], name, block.rows)

    described: dict[str, object] = {"numbers": kind}
    if kind in NUMBER_MAPS:
        number_map = NumberMap(kind)
        if spread is not None:
            number_map = number_map.fitted(spread)
            described |= {"mean": number_map.mean, "deviation": number_map.deviation}
        field = Field(name, "dense", side=side)
        return Column(field, lambda block: number_map(read(block)), described)
    size, ids = LOG_BUCKET_IDS, log_bucket_ids
    if spread is not None:
        bucketing = Bucketing(tuple(spread.limits(buckets).tolist()))
        size, ids = bucketing.size, bucketing.ids
        described["limits"] = bucketing.limits
    field = Field(name, "sparse", side=side, vocabulary_size=size, embedding_width=width)
    return Column(field, lambda block: ids(read(block)), described)


def value_column(
    name: str,
    side: str,
    vocabulary: Vocabulary | None,
    hash_size: int,
    width: int,
    separator: str | None = None,
) -> Column:
    """Makes a column of values that get ids.

    Args:
        name: Of the column and of the field.
        side: Whose property it is.
        vocabulary: Values that have ids of their own; None to hash all.
        hash_size: Ids to hash into, without a vocabulary; `ANY_ID` for a dynamic field.
        width: Floats of an embedding.
        separator: What is between the values of a list that is text; None if a row has one value.
    """
    is_list = separator is not None
    size = hash_size if vocabulary is None else vocabulary.size
    ids_of: dict[str, Any] = {"dynamic": True} if size == ANY_ID else {"vocabulary_size": size}
    field = Field(name, "sparse", side=side, is_list=is_list, embedding_width=width, **ids_of)
    described: dict[str, object] = {"hash_size": size}
    if vocabulary is not None:
        described = {"values": vocabulary.values}

    def ids(values: pa.Array) -> np.ndarray:
        return hash_ids(values, size) if vocabulary is None else vocabulary.ids(values)

    if separator is None:
        return Column(field, lambda block: ids(block.columns[name]), described)

    def map_lists(block: Block) -> list[list[int]]:
        listed = lists(block, name, separator)
        return _cut(ids(listed.flatten()), listed)

    return Column(field, map_lists, described)


def image_column(name: str, side: str, separator: str | None = None) -> Column:
    """Makes a column of ids of images, of lists of them if there is a separator."""
    field = Field(name, "image", side=side, is_list=separator is not None)
    if separator is None:
        return Column(
            field, lambda block: integers(block.columns[name], name, block.rows, missing=NO_ID)
        )

    def map_lists(block: Block) -> list[list[int]]:
        listed = lists(block, name, separator)
        values = listed.flatten()
        try:
            return _cut(integers(values, name, block.rows), listed)
        except SampleError:
            # Of a flat array the place is not the row's: find that, and say it.
            for index, row in enumerate(listed.to_pylist()):
                for value in row or ():
                    integers([value], name, Rows(block.rows.path, block.rows.first + index))
            raise

    return Column(field, map_lists)


def label_column(name: str, threshold: float | None) -> Column:
    """Makes a column of labels, 0 and 1, or what is above a threshold."""

    def read(block: Block) -> np.ndarray:
        column = block.columns[name]
        if pa.types.is_boolean(column.type):
            column = column.cast(pa.int8())
        labels = numbers(column, name, block.rows)
        known = ~np.isnan(labels)
        good = known if threshold is not None else (labels == 0) | (labels == 1)
        if not good.all():
            index = int(np.flatnonzero(~good)[0])
            shown = repr(column[index].as_py()) if known[index] else "nothing"
            wanted = "0 or 1" if threshold is None else "a number"
            raise SampleError(f"{block.rows[index]}: column {name!r} is {shown}, wanted {wanted}")
        return labels if threshold is None else (labels > threshold).astype(np.float64)

    return Column(Field(name, "label"), read)


def group_column(source: str, name: str) -> Column:
    """Makes the key whose impressions belong together, a field of its own, of a column."""
    field = Field(name, "group", side="user", dtype="string")
    return Column(field, lambda block: texts(block.columns[source]).to_pylist())


def lists(block: Block, name: str, separator: str) -> pa.ListArray:
    """Returns a column of lists, which text files hold as text; a missing one is empty.

    Raises:
        SampleError: If the column holds neither lists nor text.
    """
    column = block.columns[name]
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return column
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise SampleError(
            f"{block.rows.path}: column {name!r} is {column.type}, wanted lists, or text with "
            f"{separator!r} between the values"
        )
    trimmed = pc.utf8_trim_whitespace(column)
    return pc.split_pattern(pc.if_else(pc.equal(trimmed, ""), None, trimmed), separator)


def _cut(values: np.ndarray, listed: pa.ListArray) -> list[list[int]]:
    """Returns the values of each row of a flat array."""
    lengths = pc.fill_null(pc.list_value_length(listed), 0).to_numpy(zero_copy_only=False)
    flat, end = values.tolist(), 0
    rows = []
    for length in lengths.tolist():
        rows.append(flat[end : end + length])
        end += length
    return rows
