"""Embeddings of the ID fields of a batch."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras as keras

from amstf.data import GROUP_INDEX
from amstf.errors import SchemaError
from amstf.schema import DENSE, NO_ID, SIDES, SPARSE, WEIGHTED_SPARSE, Field, Schema
from models.id_regularization import IdRegularization
from models.keras_names import PACKAGE

_FUSED = "fields of width "


class FlatIds(NamedTuple):
    """The N values of a field that are not padding, whatever form the field came in."""

    values: tf.Tensor  # [N] int64 or string
    samples: tf.Tensor  # [N] int64, ascending: which row of the field a value belongs to
    weights: tf.Tensor | None  # [N] float32, of weighted fields
    batch_size: tf.Tensor  # []: rows of the field
    groups: tf.Tensor | None  # [B] int64: the row of each sample, of fields that samples share


@keras.utils.register_keras_serializable(package=PACKAGE)
class IdEmbedding(keras.layers.Layer):
    """Turns the sparse, weighted sparse and dense fields of a batch into one vector per sample.

    A sparse value is a row of its field's table; a list becomes one vector by the field's combiner,
    `sum_t w_t e_t` or that divided by `sum_t w_t`; dense values pass through; all is concatenated
    in the order of the schema (Embedding&MLP, arXiv 1711.06505, section 3).

    Fields that name the same table share it. Each table is asked once per call for the distinct
    ids of all its fields, so that a row crosses the network once when the table is on a server, and
    its gradient (IndexedSlices) holds each row once. Ids outside the vocabulary share one row of
    their own; padding (-1, or the empty string) adds nothing, and an empty list gives zeros.

    Args:
        schema: The fields; image, label, group and extra fields are passed over.
        sides: Take only the fields of these sides; all by default.
        embeddings_initializer: Keras initializer of the tables.
        embeddings_regularizer: Keras regularizer, applied in training to the rows that a batch
            touches, each once (the mini-batch aware regularisation of DIN, arXiv 1706.06978, 4.2,
            without its n_j). Keras' own would touch, and densify, the whole table. An
            `IdRegularization` goes by how often an id occurs in training; see `count`.
        fused: Whether fields of one id of a vocabulary have one table of rows together, each width
            its own: with many fields one lookup, and one update by the optimizer, instead of many.
            Their rows are as before. Not those whose occurrences an `IdRegularization` needs.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        SchemaError: If the schema has no such field, or a batch lacks a field or misshapes it.

    Example:
        >>> schema = Schema((
        ...     Field("user", "sparse", side="user", vocabulary_size=9, embedding_width=4),
        ...     Field("tags", "sparse", side="ad", is_list=True, vocabulary_size=5),
        ...     Field("click", "label")))
        >>> layer = IdEmbedding(schema)
        >>> batch = {"user": tf.constant([3, 8]), "tags": tf.constant([[0, 1], [4, -1]])}
        >>> layer(batch).shape
        TensorShape([2, 16])
        >>> layer.join(layer(batch, per_field=True), side="ad").shape
        TensorShape([2, 12])
    """

    def __init__(
        self,
        schema: Schema,
        sides: Sequence[str] = SIDES,
        embeddings_initializer: Any = "uniform",
        embeddings_regularizer: Any = None,
        fused: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.schema = schema
        self.fused = fused
        self.sides = tuple(sides)
        self.fields: tuple[Field, ...] = tuple(
            field
            for field in schema.of_kind(SPARSE, WEIGHTED_SPARSE, DENSE)
            if field.side in self.sides
        )
        if not self.fields:
            raise SchemaError(
                f"the schema has no sparse or dense field of the sides {', '.join(self.sides)}"
            )
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.embeddings_regularizer = keras.regularizers.get(embeddings_regularizer)
        self.tables: dict[str, keras.layers.Embedding] = {}
        self.occurrences: dict[str, keras.layers.Embedding] = {}
        rule = self.embeddings_regularizer
        self._rule = rule if isinstance(rule, IdRegularization) else IdRegularization()
        self._gated = self._rule.gated(self.fields)
        self._dropped = self._rule.dropped(self.fields)
        self._hashing: dict[str, keras.layers.Hashing] = {}
        # Of fields that all have one id of a vocabulary, which are embedded together.
        self._plain_tables: set[str] = set()
        # Table of the schema -> where its rows are: key of `tables`, and number of the first row.
        self._places: dict[str, tuple[str, int]] = {}
        for field in self.fields:
            if field.kind != DENSE and field.table_name not in self._places:
                self._place(field)
        for key, (num_rows, width) in self._fused_shapes().items():
            self.tables[key] = self._make_table(num_rows, width, key)

    def _place(self, field: Field) -> None:
        table = field.table_name
        same = [f for f in self.fields if f.num_ids and f.table_name == table]
        # An unknown id is a hashed one like any other.
        num_rows = field.num_ids + (0 if field.hash_size else 1)
        if self._rule.l2 or {f.name for f in same} & (self._gated | self._dropped):
            # A table like the others, so that on a cluster it is split and asked as they are.
            self.occurrences[table] = keras.layers.Embedding(
                num_rows,
                1,
                embeddings_initializer="zeros",
                trainable=False,
                dtype=tf.float32,
                name=_table_name(table) + "_occurrences",
            )
        if field.hash_size:
            self._hashing[table] = keras.layers.Hashing(field.hash_size)
        # A subclass may combine fields of one id with others.
        is_plain = type(self).combine is IdEmbedding.combine and not field.hash_size
        is_plain = is_plain and table not in self.occurrences and not any(f.is_list for f in same)
        if is_plain:
            self._plain_tables.add(table)
        if is_plain and self.fused:
            key = f"{_FUSED}{field.embedding_width}"
            self._places[table] = key, self._fused_shapes().get(key, (0, 0))[0]
            return
        self._places[table] = table, 0
        self.tables[table] = self._make_table(num_rows, field.embedding_width, table)

    def _fused_shapes(self) -> dict[str, tuple[int, int]]:
        """Returns the fused tables' keys -> rows and width."""
        shapes: dict[str, tuple[int, int]] = {}
        for field in {f.table_name: f for f in self.fields if f.num_ids}.values():
            key, first = self._places.get(field.table_name, ("", 0))
            if key.startswith(_FUSED):
                shapes[key] = first + field.num_ids + 1, field.embedding_width
        return shapes

    def _make_table(self, num_rows: int, width: int, name: str) -> keras.layers.Embedding:
        initializer = self.embeddings_initializer
        return keras.layers.Embedding(
            num_rows,
            width,
            # An initializer without a seed must not be shared: it repeats its numbers.
            embeddings_initializer=initializer.__class__.from_config(initializer.get_config()),
            name=_table_name(name),
        )

    @property
    def width(self) -> int:
        """Floats per sample of the output."""
        return sum(_width(field) for field in self.fields)

    def call(
        self,
        inputs: Mapping[str, tf.Tensor | tf.RaggedTensor],
        training: bool | None = None,
        per_field: bool = False,
        sides: Sequence[str] | None = None,
    ) -> tf.Tensor | dict[str, tf.Tensor]:
        """Embeds a batch.

        Args:
            inputs: Field name -> ids [B] (or [B, 1]), lists [B, T] padded with -1 or ragged,
                weights of the same form under `Field.weight_name`, dense [B, length]. More keys
                may be there. In a batch of groups (`amstf.data.parse_groups`) fields of the user
                have a row for each group; they are embedded so, and then repeated.
            training: Whether the regularizer adds its loss.
            per_field: Return the fields one by one, for parts that want some of them; see `join`.
            sides: Embed only the fields of these sides, and do without the others in `inputs`.

        Returns:
            [B, width], or with `per_field` a dict of field name -> [B, width of the field].
        """
        wanted = [f for f in self.fields if sides is None or f.side in sides]
        single = [f for f in wanted if f.num_ids and f.table_name in self._plain_tables]
        others = [f for f in wanted if f.num_ids and f.table_name not in self._plain_tables]
        flat = {f.name: _flat_ids(f, inputs) for f in others}
        rows: dict[str, tf.Tensor] = {}
        for table in self.tables:
            fields = [f for f in others if f.table_name == table]
            if fields:
                rows.update(self._rows_of_table(table, fields, flat, bool(training)))
        embedded = self.combine(rows, flat)
        embedded.update(self._embed_single(single, inputs, bool(training)))
        for field in wanted:
            if field.kind == DENSE:
                values = tf.cast(_dense(field, inputs), self.compute_dtype)
                embedded[field.name] = per_sample(values, groups_of(field, inputs))
        return embedded if per_field else self.join(embedded)

    def join(self, embedded: Mapping[str, tf.Tensor], side: str | None = None) -> tf.Tensor:
        """Concatenates what a call with `per_field` returned, all or of one side, to [B, width]."""
        fields = [f for f in self.fields if f.name in embedded and side in (None, f.side)]
        if not fields:
            raise SchemaError(f"the schema has no sparse or dense field of side {side!r}")
        return tf.concat([embedded[field.name] for field in fields], axis=-1)

    def combine(
        self, rows: Mapping[str, tf.Tensor], flat: Mapping[str, FlatIds]
    ) -> dict[str, tf.Tensor]:
        """Makes one vector per sample of the embeddings of each field's values.

        Args:
            rows: Field name -> embeddings of its values [N, width].
            flat: Field name -> to which samples they belong, with which weights.

        Returns:
            Field name -> [B, width].
        """
        return {name: _combine(self.schema[name], rows[name], flat[name]) for name in rows}

    def _embed_single(
        self, fields: list[Field], inputs: Mapping[str, tf.Tensor], training: bool
    ) -> dict[str, tf.Tensor]:
        """Does what the way over `FlatIds` does, for fields of one id, in fewer operations.

        Ids of all fields become rows, and padding becomes zeros, together: of 26 fields of 256
        samples most time is that of starting operations.
        """
        groups = {f.name: groups_of(f, inputs) for f in fields}
        # Fields of a group have fewer rows than those of samples.
        blocks = [
            block
            for is_grouped in (False, True)
            if (block := [f for f in fields if (groups[f.name] is not None) == is_grouped])
        ]
        ids = [tf.stack([_single_ids(field, inputs) for field in block]) for block in blocks]
        rows = [self._single_rows(block, one) for block, one in zip(blocks, ids, strict=True)]
        pieces: dict[tuple[int, int], list[tuple[list[int], tf.Tensor]]] = {}
        for key in dict.fromkeys(self._places[field.table_name][0] for field in fields):
            width = self.tables[key].output_dim
            asked = []
            for k, block in enumerate(blocks):
                at = [i for i, f in enumerate(block) if self._places[f.table_name][0] == key]
                if at:
                    asked.append((k, at, _rows_at(rows[k], at)))
            flat = tf.concat([tf.reshape(part, [-1]) for _, _, part in asked], axis=0)
            distinct, positions = tf.unique(flat)
            of_table = self.tables[key](distinct)
            if training and self.embeddings_regularizer is not None:
                self._add_loss_of(of_table, None)
            taken = _take(of_table, positions)
            parts = tf.split(taken, [tf.size(part) for _, _, part in asked], num=len(asked))
            for (k, at, part), values in zip(asked, parts, strict=True):
                shape = tf.concat([tf.shape(part), [width]], axis=0)
                pieces.setdefault((k, width), []).append((at, tf.reshape(values, shape)))
        embedded: dict[str, tf.Tensor] = {}
        for (k, width), found in pieces.items():
            order = [i for at, _ in found for i in at]
            values = tf.concat([part for _, part in found], axis=0)
            is_id = _rows_at(ids[k] != NO_ID, order)[:, :, None]
            values = tf.where(is_id, values, tf.zeros([], values.dtype))
            for i, value in zip(order, tf.unstack(values, num=len(order)), strict=True):
                field = blocks[k][i]
                value = tf.ensure_shape(value, [None, width])
                embedded[field.name] = per_sample(value, groups[field.name])
        return embedded

    def _single_rows(self, fields: list[Field], ids: tf.Tensor) -> tf.Tensor:
        """Makes rows of their tables of the ids [n, B] of fields."""
        sizes = tf.constant([[field.num_ids] for field in fields], tf.int64)
        first = tf.constant([[self._places[field.table_name][1]] for field in fields], tf.int64)
        return first + tf.where((ids >= 0) & (ids < sizes), ids, sizes)

    def _rows_of_table(
        self, table: str, fields: list[Field], flat: dict[str, FlatIds], training: bool
    ) -> dict[str, tf.Tensor]:
        """Returns the embeddings [N, width] of the values of fields that share a table."""
        indices = [self._indices(field, flat[field.name].values) for field in fields]
        dropped = [field for field in fields if field.name in self._dropped]
        if training:
            indices = [
                self._drop(field, part) if field in dropped else part
                for field, part in zip(fields, indices, strict=True)
            ]
        unknown = tf.constant([dropped[0].num_ids] if dropped else [], tf.int64)
        distinct, positions = tf.unique(tf.concat([*indices, unknown], axis=0))
        rows = self.tables[table](distinct)
        occurrences = None
        if table in self.occurrences:
            occurrences = tf.cast(self.occurrences[table](distinct)[:, 0], tf.float32)
        if training and self.embeddings_regularizer is not None:
            self._add_loss_of(rows, occurrences)
        sizes = [*(tf.size(i) for i in indices), tf.size(unknown)]
        *parts, last = tf.split(positions, sizes, num=len(sizes))
        taken: dict[str, tf.Tensor] = {}
        for field, part in zip(fields, parts, strict=True):
            if field in dropped:
                part = tf.where(tf.gather(occurrences, part) > 0, part, last)
            taken[field.name] = _take(rows, part)
            if field.name in self._gated:
                gate = self._rule.gate_of(tf.gather(occurrences, part))
                taken[field.name] *= tf.cast(gate, rows.dtype)[:, None]
        return taken

    def _drop(self, field: Field, indices: tf.Tensor) -> tf.Tensor:
        is_kept = tf.random.uniform(tf.shape(indices)) >= self._rule.dropout
        return tf.where(is_kept, indices, tf.constant(field.num_ids, tf.int64))

    def _add_loss_of(self, rows: tf.Tensor, occurrences: tf.Tensor | None) -> None:
        rows = tf.cast(rows, tf.float32)
        counted = () if occurrences is None else (occurrences,)
        if counted or self.embeddings_regularizer is not self._rule:
            self.add_loss(self.embeddings_regularizer(rows, *counted))

    def count(self, batches: Iterable[Mapping[str, Any]]) -> None:
        """Counts the ids of the training data, for an `IdRegularization`; see there.

        Args:
            batches: All of it once, dicts as for `call`, without labels.
        """
        counts = {
            table: np.zeros(int(layer.input_dim), np.float64)
            for table, layer in self.occurrences.items()
        }
        fields = [f for f in self.fields if f.num_ids and f.table_name in counts]
        for batch in batches:
            for field in fields:
                flat = _flat_ids(field, batch)
                indices = self._indices(field, flat.values).numpy()
                times = np.ones(len(indices))
                if flat.groups is not None:  # A group's ids occur in each of its samples.
                    samples = np.bincount(flat.groups.numpy(), minlength=int(flat.batch_size))
                    times = samples[flat.samples.numpy()]
                table = counts[field.table_name]
                table += np.bincount(indices, times, minlength=len(table))
                if field.name in self._dropped:  # As often as it will be the unknown one.
                    table[-1] += self._rule.dropout * times.sum()
        for table, layer in self.occurrences.items():
            layer.embeddings.assign(counts[table].astype(np.float32)[:, None])

    def _indices(self, field: Field, values: tf.Tensor) -> tf.Tensor:
        if field.hash_size:
            return self._hashing[field.table_name](values)
        known = (values >= 0) & (values < field.num_ids)
        return tf.where(known, values, tf.constant(field.num_ids, tf.int64))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "schema": self.schema.to_json(),
            "sides": list(self.sides),
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
            "embeddings_regularizer": keras.regularizers.serialize(self.embeddings_regularizer),
            "fused": self.fused,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> IdEmbedding:
        """Makes the layer that `get_config` described, without its weights."""
        return cls(**{**config, "schema": Schema.from_json(config["schema"])})


def _table_name(table: str) -> str:
    return "table_" + re.sub(r"[^A-Za-z0-9_.-]", "_", table)


def _rows_at(values: tf.Tensor, at: list[int]) -> tf.Tensor:
    """Returns rows of [n, B], which mostly are all of them, or one."""
    if at == list(range(values.shape[0])):
        return values
    return values[at[0] : at[0] + 1] if len(at) == 1 else tf.gather(values, at)


def of_width(schema: Schema, width: int) -> Schema:
    """Returns the schema with another embedding width for all its sparse fields."""
    fields = (
        dataclasses.replace(field, embedding_width=width)
        if field.kind in (SPARSE, WEIGHTED_SPARSE)
        else field
        for field in schema.fields
    )
    return dataclasses.replace(schema, fields=tuple(fields))


def widths_of(schema: Schema, sides: Sequence[str] = SIDES) -> dict[int, list[str]]:
    """Returns the embedding widths of a schema's sparse fields -> the names that have it."""
    widths: dict[int, list[str]] = {}
    for field in schema.of_kind(SPARSE, WEIGHTED_SPARSE):
        if field.side in sides:
            widths.setdefault(field.embedding_width, []).append(field.name)
    return widths


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
    return rows if groups is None else _take(rows, groups)


def _single_ids(field: Field, inputs: Mapping[str, Any]) -> tf.Tensor:
    """Returns a field of one id [B] as int64."""
    values = one_per_sample(field, value_of(field.name, inputs))
    _check_dtype(field, values)
    return tf.cast(values, tf.int64)


def _check_dtype(field: Field, values: tf.Tensor) -> None:
    if (values.dtype == tf.string) != (field.dtype == "string"):
        name = "string" if values.dtype == tf.string else "int64"
        raise SchemaError(f"field {field.name!r} holds {name}, wanted {field.dtype}")


def _flat_ids(field: Field, inputs: Mapping[str, Any]) -> FlatIds:
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
    _check_dtype(field, values)
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


def _combine(field: Field, rows: tf.Tensor, ids: FlatIds) -> tf.Tensor:
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


@tf.custom_gradient
def _take(rows: tf.Tensor, positions: tf.Tensor) -> Any:
    """Gathers rows; its gradient is dense.

    `tf.gather` would hand IndexedSlices of the few distinct rows to the table's own gather, which
    then warns that it has to convert them.
    """

    def backward(upstream: tf.Tensor) -> tuple[tf.Tensor, None]:
        return tf.math.unsorted_segment_sum(upstream, positions, tf.shape(rows)[0]), None

    return tf.gather(rows, positions), backward


def _dense(field: Field, inputs: Mapping[str, Any]) -> tf.Tensor:
    values = value_of(field.name, inputs)
    if field.length == 1 and values.shape.rank == 1:
        values = values[:, None]
    if values.shape.rank != 2 or values.shape[1] not in (None, field.length):
        raise SchemaError(
            f"field {field.name!r} has shape {values.shape}; wanted [B, {field.length}]"
        )
    return tf.ensure_shape(values, [None, field.length])


def _width(field: Field) -> int:
    return field.length if field.kind == DENSE else field.embedding_width
