"""Embeddings of the ID fields of a batch."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from amstf.errors import SchemaError
from amstf.layers import DynamicEmbedding
from amstf.layers.rows import take_rows
from amstf.schema import DENSE, SIDES, SPARSE, WEIGHTED_SPARSE, Field, Schema
from models.flat_ids import FlatIds, combine_rows, flat_ids
from models.id_regularization import IdRegularization
from models.keras_names import PACKAGE
from models.single_ids import (
    Embedded,
    Place,
    embed_single,
    groups_of,
    per_sample,
    value_of,
)


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
        self.dynamic_tables: dict[str, DynamicEmbedding] = {}
        # Of fields that all have one id of a vocabulary, which are embedded together.
        self._plain_tables: set[str] = set()
        # Of tables of the schema, by name.
        self._places: dict[str, Place] = {}
        fused: dict[int, int] = {}
        for field in self.fields:
            if field.dynamic and field.table_name not in self.dynamic_tables:
                self._add_dynamic_table(field)
            if field.num_ids and field.table_name not in self._places:
                self._place(field, fused)
        for width, num_rows in fused.items():
            self.tables[_fused_name(width)] = self._make_table(num_rows, width, _fused_name(width))

    def _add_dynamic_table(self, field: Field) -> None:
        regularizer = self.embeddings_regularizer
        if regularizer is not None and regularizer is self._rule:
            if self._rule.l2:
                raise SchemaError(
                    f"field {field.name!r} is dynamic: how often its ids will occur is not known, "
                    "by which an IdRegularization goes; use l2=0, or give the field a "
                    "vocabulary_size"
                )
            regularizer = None
        self.dynamic_tables[field.table_name] = DynamicEmbedding(
            field.embedding_width,
            initializer=self.embeddings_initializer,
            # Each table begins with other numbers, as the others do.
            seed=int(np.random.randint(2**31)),
            embeddings_regularizer=regularizer,
            name=_table_name(field.table_name),
        )

    def _place(self, field: Field, fused: dict[int, int]) -> None:
        """Decides where the table of a field is, and makes it; `fused` is width -> rows so far."""
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
            width = field.embedding_width
            first = fused.get(width, 0)
            self._places[table] = Place(_fused_name(width), first, width)
            fused[width] = first + num_rows
            return
        self._places[table] = Place(table, 0, field.embedding_width)
        self.tables[table] = self._make_table(num_rows, field.embedding_width, table)

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
        dynamic = [f for f in wanted if f.dynamic]
        flat = {f.name: flat_ids(f, inputs) for f in (*others, *dynamic)}
        rows: dict[str, tf.Tensor] = {}
        for table in self.tables:
            fields = [f for f in others if f.table_name == table]
            if fields:
                rows.update(self._rows_of_table(table, fields, flat, bool(training)))
        for table in self.dynamic_tables:
            fields = [f for f in dynamic if f.table_name == table]
            if fields:
                rows.update(self._rows_of_dynamic_table(table, fields, flat, training))
        embedded = self.combine(rows, flat)
        for together in self._embed_single(single, inputs, bool(training)):
            embedded.update(together.per_field())
        for field in wanted:
            if field.kind == DENSE:
                embedded[field.name] = self._numbers(field, inputs)
        return embedded if per_field else self.join(embedded)

    def _numbers(self, field: Field, inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns a dense field, [B, length]."""
        values = tf.cast(_dense(field, inputs), self.compute_dtype)
        return per_sample(values, groups_of(field, inputs))

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
        return {name: combine_rows(self.schema[name], rows[name], flat[name]) for name in rows}

    def _embed_single(
        self, fields: Sequence[Field], inputs: Mapping[str, tf.Tensor], training: bool
    ) -> list[Embedded]:
        """Embeds fields of one id, whose tables are `_plain_tables`."""

        def lookup(table: str, distinct: tf.Tensor) -> tf.Tensor:
            rows = self.tables[table](distinct)
            if training and self.embeddings_regularizer is not None:
                self._add_loss_of(rows, None)
            return rows

        return embed_single(fields, inputs, self._places, lookup)

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
            taken[field.name] = take_rows(rows, part)
            if field.name in self._gated:
                gate = self._rule.gate_of(tf.gather(occurrences, part))
                taken[field.name] *= tf.cast(gate, rows.dtype)[:, None]
        return taken

    def _rows_of_dynamic_table(
        self, table: str, fields: list[Field], flat: dict[str, FlatIds], training: bool | None
    ) -> dict[str, tf.Tensor]:
        """As `_rows_of_table`, of ids that have no vocabulary."""
        values = [flat[field.name].values for field in fields]
        rows = self.dynamic_tables[table](tf.concat(values, 0), training=training)
        parts = tf.split(rows, [tf.size(part) for part in values], num=len(values))
        return {field.name: part for field, part in zip(fields, parts, strict=True)}

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
                flat = flat_ids(field, batch)
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


def _fused_name(width: int) -> str:
    return f"fields of width {width}"


def _table_name(table: str) -> str:
    return "table_" + re.sub(r"[^A-Za-z0-9_.-]", "_", table)


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
