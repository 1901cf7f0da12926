"""Embeddings of fields that are multiplied with each other: one vector of one width per field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
import tf_keras as keras

from amstf.errors import SchemaError
from amstf.schema import DENSE, SIDES, Schema
from models.id_embedding import IdEmbedding, of_width, widths_of
from models.keras_names import PACKAGE
from models.single_ids import groups_of


class FieldLayout(NamedTuple):
    """What the floats of a sample are: sums [L], then vectors [N, D], then all others."""

    num_sums: int
    num_fields: int
    width: int

    def split(self, inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Takes [B, L + N D + others] apart: sums [B, L], vectors [B, N, D], others."""
        # The gradient of a split is one concatenation, those of slices are padded and added up.
        sums, flat, others = tf.split(
            inputs, [self.num_sums, self.num_fields * self.width, -1], axis=1
        )
        others = tf.ensure_shape(others, [None, inputs.shape[1] - sums.shape[1] - flat.shape[1]])
        return sums, tf.reshape(flat, [-1, self.num_fields, self.width]), others


@keras.utils.register_keras_serializable(package=PACKAGE)
class FieldEmbedding(IdEmbedding):
    """An `IdEmbedding` for models of field interactions: sums, one vector per field, numbers.

    A sparse field's vector is the embedding that its ids combine to. A number x of a dense field
    has a learnt vector v and is the field `x v` (DeepFM, arXiv 1703.04247, section 2.1, where a
    continuous field is a feature whose value is not 1), and it comes as x itself once more, for the
    MLP. With `num_sums` the rows of the tables are wider by the weights of a linear model, whose
    sums over the fields, `sum_f sum_t w_f[id_t]`, come first: one lookup for both.

    Args:
        schema: The fields; all embeddings of one width (D).
        sides: As in `IdEmbedding`.
        num_sums: Weights of an id beside its embedding, one for each label (L); 0 for none.
        dense_vectors: Whether numbers are fields with vectors, or only come as they are.
        embeddings_initializer: As in `IdEmbedding`.
        embeddings_regularizer: As in `IdEmbedding`, of the wider rows.
        fused: As in `IdEmbedding`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        SchemaError: If widths differ, or there are fewer than two vectors.

    Example:
        >>> from amstf.schema import Field
        >>> schema = Schema((
        ...     Field("user", "sparse", vocabulary_size=9, embedding_width=4),
        ...     Field("price", "dense"),
        ...     Field("click", "label")))
        >>> layer = FieldEmbedding(schema, num_sums=1)
        >>> rows = layer({"user": tf.constant([3, 8]), "price": tf.constant([1.0, 2.0])})
        >>> [part.shape.as_list() for part in layer.layout.split(rows)]
        [[2, 1], [2, 2, 4], [2, 1]]
    """

    def __init__(
        self,
        schema: Schema,
        sides: Sequence[str] = SIDES,
        num_sums: int = 0,
        dense_vectors: bool = True,
        embeddings_initializer: Any = "uniform",
        embeddings_regularizer: Any = None,
        fused: bool = True,
        **kwargs: Any,
    ) -> None:
        width = _width_of(schema, sides)
        super().__init__(
            of_width(schema, width + num_sums),
            sides,
            embeddings_initializer,
            embeddings_regularizer,
            fused,
            **kwargs,
        )
        self.given_schema = schema
        self.dense_vectors = dense_vectors
        self._sparse = [f.name for f in self.fields if f.kind != DENSE]
        self._dense = [f for f in self.fields if f.kind == DENSE]
        num_dense = sum(f.length for f in self._dense) if dense_vectors else 0
        self.layout = FieldLayout(num_sums, len(self._sparse) + num_dense, width)
        if self.layout.num_fields < 2:
            raise SchemaError(
                f"the schema has {self.layout.num_fields} fields for a model that multiplies "
                "fields with each other; give it two or more, or use EmbeddingMlp"
            )

    def build(self, input_shape: Any) -> None:
        """Makes the vectors of numbers; the tables make themselves."""
        num_dense = self.layout.num_fields - len(self._sparse)
        if num_dense:
            self.vectors_of_dense = self.add_weight(
                "vectors_of_dense", [num_dense, self.layout.width], initializer="uniform"
            )
        super().build(input_shape)

    def join(self, embedded: Mapping[str, tf.Tensor], side: str | None = None) -> tf.Tensor:
        """Returns [B, L + N D + numbers], see `FieldLayout`; of one side as `IdEmbedding` does."""
        if side is not None:
            return super().join(embedded, side)
        rows = None
        if self._sparse:
            flat = tf.concat([embedded[name] for name in self._sparse], axis=-1)
            rows = tf.reshape(
                flat, [-1, len(self._sparse), self.layout.num_sums + self.layout.width]
            )
        return self._arrange(rows, [embedded[field.name] for field in self._dense])

    def call(
        self,
        inputs: Mapping[str, tf.Tensor | tf.RaggedTensor],
        training: bool | None = None,
        per_field: bool = False,
        sides: Sequence[str] | None = None,
    ) -> tf.Tensor | dict[str, tf.Tensor]:
        """Embeds a batch, see `IdEmbedding.call`; without `per_field` as `join` returns it."""
        fields = [f for f in self.fields if f.table_name in self._plain_tables]
        is_grouped = any(groups_of(f, inputs) is not None for f in self.fields)
        # All lie beside each other already, and need not be taken apart to be put together.
        if len(fields) == len(self._sparse) > 0 and not (per_field or sides or is_grouped):
            together = self._embed_single(fields, inputs, bool(training))
            if len(together) == 1 and together[0].fields == tuple(fields):
                dense = [self._numbers(field, inputs) for field in self._dense]
                return self._arrange(together[0].vectors, dense)
        return super().call(inputs, training, per_field, sides)

    def _arrange(self, rows: tf.Tensor | None, dense: Sequence[tf.Tensor]) -> tf.Tensor:
        """Makes the output of rows [B, n, L + D] and of numbers [B, length] each."""
        num_sums, _, width = self.layout
        parts = []
        if rows is not None:
            if num_sums:
                weights, rows = tf.split(rows, [num_sums, width], axis=2)
                parts.append(tf.reduce_sum(weights, axis=1))
            parts.append(tf.reshape(rows, [-1, len(self._sparse) * width]))
        if dense:
            numbers = tf.concat(dense, axis=-1)
            if num_sums and rows is None:
                parts.append(tf.zeros([tf.shape(numbers)[0], num_sums], numbers.dtype))
            if self.dense_vectors:
                vectors = numbers[:, :, None] * tf.cast(self.vectors_of_dense, numbers.dtype)
                parts.append(tf.reshape(vectors, [-1, vectors.shape[1] * width]))
            parts.append(numbers)
        return tf.concat(parts, axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "schema": self.given_schema.to_json(),
            "num_sums": self.layout.num_sums,
            "dense_vectors": self.dense_vectors,
        }


def _width_of(schema: Schema, sides: Sequence[str]) -> int:
    """Returns the one width of the schema's embeddings; raises SchemaError if there are several."""
    names = widths_of(schema, sides)
    if len(names) > 1:
        listed = "; ".join(f"{width}: {', '.join(fields)}" for width, fields in names.items())
        raise SchemaError(
            f"embedding widths differ ({listed}), and this model multiplies embeddings with each "
            "other; give all fields one embedding_width"
        )
    return next(iter(names), 12)
