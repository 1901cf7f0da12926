"""Fields of one id each, embedded together: of many small operations most time is their start."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from amstf.data import GROUP_INDEX
from amstf.errors import SchemaError
from amstf.schema import NO_ID, Field
from models.row_gather import take_rows


class Place(NamedTuple):
    """Where a table of the schema has its rows."""

    table: str  # Key of the table that holds them.
    first: int  # The first of them.
    width: int


class Embedded(NamedTuple):
    """Embeddings of n fields of one width, which have their rows for the same samples."""

    fields: tuple[Field, ...]
    vectors: tf.Tensor  # [B, n, width]; of groups [G, n, width].
    groups: tf.Tensor | None  # As of `groups_of`.

    def per_field(self) -> dict[str, tf.Tensor]:
        """Returns name -> [B, width]."""
        parts = tf.unstack(self.vectors, num=len(self.fields), axis=1)
        return {
            field.name: per_sample(part, self.groups)
            for field, part in zip(self.fields, parts, strict=True)
        }


def embed_single(
    fields: Sequence[Field],
    inputs: Mapping[str, Any],
    places: Mapping[str, Place],
    lookup: Callable[[str, tf.Tensor], tf.Tensor],
) -> list[Embedded]:
    """Embeds fields of one id of a vocabulary.

    Ids of all fields become rows together, and each table is asked once.

    Args:
        fields: The fields.
        inputs: A batch.
        places: Table of the schema -> where its rows are; the last is that of unknown ids.
        lookup: From the key of a table and distinct rows [U] to these, [U, width].

    Returns:
        The fields, those of one width together.
    """
    groups = {f.name: groups_of(f, inputs) for f in fields}
    # Fields of a group have fewer rows than those of samples.
    of_samples = [f for f in fields if groups[f.name] is None]
    blocks = [block for block in (of_samples, [f for f in fields if f not in of_samples]) if block]
    ids = [tf.stack([_ids(field, inputs) for field in block], axis=1) for block in blocks]
    rows = [_rows(block, one, places) for block, one in zip(blocks, ids, strict=True)]
    found: dict[tuple[int, int], list[tuple[list[int], tf.Tensor]]] = {}
    for place in {places[f.table_name].table: places[f.table_name] for f in fields}.values():
        asked = []
        for k, block in enumerate(blocks):
            at = [i for i, f in enumerate(block) if places[f.table_name].table == place.table]
            if at:
                asked.append((k, at, _columns(rows[k], at), _columns(ids[k] == NO_ID, at)))
        flat = [tf.reshape(part, [-1]) for _, _, part, _ in asked]
        is_padding = [tf.reshape(part, [-1]) for *_, part in asked]
        distinct, positions = tf.unique(_joined(flat))
        # Padding takes a row of zeros: that chooses a number a value, not one for each float.
        positions = tf.where(_joined(is_padding), tf.size(distinct), positions)
        vectors = lookup(place.table, distinct)
        vectors = tf.concat([vectors, tf.zeros([1, place.width], vectors.dtype)], axis=0)
        taken = take_rows(vectors, positions)
        sizes = [tf.size(part) for part in flat]
        parts = tf.split(taken, sizes, num=len(flat)) if len(flat) > 1 else [taken]
        for (k, at, *_), part in zip(asked, parts, strict=True):
            vectors = tf.reshape(part, [-1, len(at), place.width])
            found.setdefault((k, place.width), []).append((at, vectors))
    embedded = []
    for (k, _), pieces in found.items():
        ordered = tuple(blocks[k][i] for at, _ in pieces for i in at)
        vectors = _joined([part for _, part in pieces], axis=1)
        embedded.append(Embedded(ordered, vectors, groups[ordered[0].name]))
    return embedded


def _joined(parts: Sequence[tf.Tensor], axis: int = 0) -> tf.Tensor:
    return tf.concat(parts, axis=axis) if len(parts) > 1 else parts[0]


def value_of(field_name: str, inputs: Mapping[str, Any]) -> Any:
    """Returns a batch's tensor of that name; raises SchemaError if the batch lacks it."""
    try:
        return inputs[field_name]
    except KeyError:
        raise SchemaError(
            f"the batch has no {field_name!r}, which the model's schema names; "
            f"it has {', '.join(sorted(inputs))}"
        ) from None


def one_per_sample(field: Field, values: tf.Tensor) -> tf.Tensor:
    """Returns a field that is no list as [B]; Keras hands such inputs on as [B] or [B, 1]."""
    shape = values.shape
    is_column = shape.rank == 2 and shape[1] == 1
    if isinstance(values, tf.RaggedTensor) or not (shape.rank == 1 or is_column):
        raise SchemaError(f"field {field.name!r} has shape {shape}; wanted [B], it is not a list")
    return tf.reshape(values, [-1])


def groups_of(field: Field, inputs: Mapping[str, Any]) -> tf.Tensor | None:
    """Returns the row of each sample [B] in a field that samples share, None if none are shared."""
    if GROUP_INDEX not in inputs or not field.is_common:
        return None
    # Keras hands it on as [B] or [B, 1].
    return tf.reshape(inputs[GROUP_INDEX], [-1])


def per_sample(rows: tf.Tensor, groups: tf.Tensor | None) -> tf.Tensor:
    """Repeats rows of groups [G, ...] for their samples, [B, ...]; `groups` as of `groups_of`."""
    return rows if groups is None else take_rows(rows, groups)


def check_dtype(field: Field, values: tf.Tensor) -> None:
    """Raises SchemaError if ids are texts and the field's are not, or the other way round."""
    if (values.dtype == tf.string) != (field.dtype == "string"):
        raise SchemaError(f"field {field.name!r} holds {values.dtype.name}, wanted {field.dtype}")


def _ids(field: Field, inputs: Mapping[str, Any]) -> tf.Tensor:
    values = one_per_sample(field, value_of(field.name, inputs))
    check_dtype(field, values)
    return tf.cast(values, tf.int64)


def _rows(fields: Sequence[Field], ids: tf.Tensor, places: Mapping[str, Place]) -> tf.Tensor:
    """Makes rows of their tables of the ids [B, n] of fields."""
    sizes = tf.constant([field.num_ids for field in fields], tf.int64)
    first = tf.constant([places[field.table_name].first for field in fields], tf.int64)
    return first + tf.where((ids >= 0) & (ids < sizes), ids, sizes)


def _columns(values: tf.Tensor, at: list[int]) -> tf.Tensor:
    """Returns columns of [B, n], which mostly are all of them, or one."""
    if at == list(range(values.shape[1])):
        return values
    return values[:, at[0] : at[0] + 1] if len(at) == 1 else tf.gather(values, at, axis=1)
