"""DIN, the click model that pays attention to those behaviours that are like the ad."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from amstf.errors import SchemaError
from amstf.schema import SIDES, SPARSE, WEIGHTED_SPARSE, Field, Schema
from models.attention import AttentivePooling
from models.blocks import Mlp
from models.embedding_mlp import EmbeddingMlp
from models.flat_ids import FlatIds
from models.id_embedding import IdEmbedding
from models.keras_names import PACKAGE
from models.single_ids import per_sample


@keras.utils.register_keras_serializable(package=PACKAGE)
class DinEmbedding(IdEmbedding):
    """An `IdEmbedding` in which lists of behaviours are weighed by how they relate to the ad.

    For the behaviours e_t of a user and the embedding q of the ad, both of ids: `sum_t a(e_t, q)
    e_t` takes the place of the field's combiner; a is DIN's activation unit (arXiv 1706.06978,
    section 4.3), an `AttentivePooling` for each list. Of a weighted list the e_t are embeddings
    times their weights.

    Args:
        schema: As in `IdEmbedding`.
        behaviours: Name of a list of the user -> name of the field of the ad that asks. By default
            each sparse list of side "user" whose table a field of side "ad" shares, with that one.
        sides: As in `IdEmbedding`.
        attention_hidden: Widths of the activation units' MLP.
        attention_activation: Activation of that MLP, see `models.blocks.Mlp`.
        embeddings_initializer: As in `IdEmbedding`.
        embeddings_regularizer: As in `IdEmbedding`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        SchemaError: If no list or no single field of the ad fits, or several could be meant.

    Example:
        >>> ids = {"vocabulary_size": 9, "table": "item"}
        >>> schema = Schema((
        ...     Field("bought", "sparse", side="user", is_list=True, **ids),
        ...     Field("item", "sparse", side="ad", **ids),
        ...     Field("click", "label")))
        >>> layer = DinEmbedding(schema)
        >>> layer.behaviours
        {'bought': 'item'}
        >>> layer({"bought": tf.constant([[3, 4, -1]]), "item": tf.constant([4])}).shape
        TensorShape([1, 24])
    """

    def __init__(
        self,
        schema: Schema,
        behaviours: Mapping[str, str] | None = None,
        sides: Sequence[str] = SIDES,
        attention_hidden: Sequence[int] = (36,),
        attention_activation: str = "dice",
        embeddings_initializer: Any = "uniform",
        embeddings_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(schema, sides, embeddings_initializer, embeddings_regularizer, **kwargs)
        if behaviours is None:
            behaviours = _pairs_by_table(self.fields)
        self._pairs = tuple(behaviours.items())
        _check_pairs(self.fields, self.behaviours)
        self.attention_hidden = tuple(attention_hidden)
        self.attention_activation = attention_activation
        self.attentions = {
            name: AttentivePooling(
                self.attention_hidden, attention_activation, name=f"attention_{k}"
            )
            for k, name in enumerate(self.behaviours)
        }

    @property
    def behaviours(self) -> dict[str, str]:
        """Name of a list of the user -> name of the field of the ad that asks."""
        return dict(self._pairs)

    def combine(
        self, rows: Mapping[str, tf.Tensor], flat: Mapping[str, FlatIds]
    ) -> dict[str, tf.Tensor]:
        """See `IdEmbedding`."""
        pairs = self.behaviours
        plain = {name: value for name, value in rows.items() if name not in pairs}
        combined = super().combine(plain, flat)
        for name, ad in pairs.items():
            behaviours, mask = _padded(rows[name], flat[name])
            behaviours = per_sample(behaviours, flat[name].groups)
            mask = per_sample(mask, flat[name].groups)
            pooled = self.attentions[name](behaviours, mask, combined[ad])
            combined[name] = tf.ensure_shape(pooled, [None, self.schema[name].embedding_width])
        return combined

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "behaviours": self.behaviours,
            "attention_hidden": list(self.attention_hidden),
            "attention_activation": self.attention_activation,
        }


@keras.utils.register_keras_serializable(package=PACKAGE)
class Din(EmbeddingMlp):
    """Deep Interest Network: Embedding&MLP with attention over behaviours, and Dice.

    `p = sigmoid(w . mlp([e_1, ..., e_n, sum_t a(e_t, q) e_t]) + b)` (arXiv 1706.06978, section 4):
    the ids of behaviours are weighed by the activation unit a with the ad's id embedding q as
    query, see `DinEmbedding`; MLP and activation unit have the activation `Dice` (section 5.3).
    With images: `Dicm(schema, images, base="din")`.

    Args:
        schema: The fields of a batch.
        hidden: Widths of the MLP.
        dropout: Share of the outputs of each layer of the MLP to drop in training.
        behaviours: See `DinEmbedding`.
        embeddings_regularizer: See `models.IdEmbedding`.
        id_embedding: Layer from a batch to [B, width] that replaces the `DinEmbedding`.
        **kwargs: Further arguments of `EmbeddingMlp`.

    Raises:
        SchemaError: If the schema has no behaviours that fit.

    Example:
        >>> ids = {"vocabulary_size": 9, "table": "item"}
        >>> schema = Schema((
        ...     Field("bought", "sparse", side="user", is_list=True, **ids),
        ...     Field("item", "sparse", side="ad", **ids),
        ...     Field("click", "label")))
        >>> Din(schema)({"bought": tf.constant([[3, 4]]), "item": tf.constant([4])}).shape
        TensorShape([1, 1])
    """

    def __init__(
        self,
        schema: Schema,
        hidden: Sequence[int] = (128, 64),
        dropout: float = 0.0,
        *,
        behaviours: Mapping[str, str] | None = None,
        embeddings_regularizer: Any = None,
        id_embedding: keras.layers.Layer | None = None,
        **kwargs: Any,
    ) -> None:
        if behaviours is not None and id_embedding is None:
            id_embedding = DinEmbedding(
                schema,
                behaviours,
                embeddings_regularizer=embeddings_regularizer,
                name="id_embedding",
            )
        super().__init__(
            schema,
            hidden,
            dropout,
            embeddings_regularizer=embeddings_regularizer,
            id_embedding=id_embedding,
            **kwargs,
        )

    @classmethod
    def make_id_embedding(
        cls, schema: Schema, labels: Sequence[str], embeddings_regularizer: Any
    ) -> keras.layers.Layer:
        """Makes the `DinEmbedding`."""
        return DinEmbedding(
            schema, embeddings_regularizer=embeddings_regularizer, name="id_embedding"
        )

    @classmethod
    def make_mlp(
        cls,
        hidden: Sequence[int],
        activation: str | None,
        dropout: float,
        id_embedding: keras.layers.Layer,
    ) -> keras.layers.Layer:
        """Makes the MLP, with Dice by default."""
        return Mlp(hidden, activation or "dice", dropout, name="mlp")


def _is_behaviours(field: Field) -> bool:
    return field.is_list and field.side == "user" and field.kind in (SPARSE, WEIGHTED_SPARSE)


def _is_query(field: Field) -> bool:
    return not field.is_list and field.side == "ad" and field.kind == SPARSE


def _pairs_by_table(fields: Sequence[Field]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    queries = list(filter(_is_query, fields))
    for field in filter(_is_behaviours, fields):
        fitting = [query.name for query in queries if query.table_name == field.table_name]
        if len(fitting) > 1:
            raise SchemaError(
                f"{field.name!r} shares its table with several fields of the ad: "
                f"{', '.join(fitting)}; say which one asks, as "
                f"behaviours={{{field.name!r}: {fitting[0]!r}}}"
            )
        if fitting:
            pairs[field.name] = fitting[0]
    if not pairs:
        raise SchemaError(
            "DIN has no behaviours to attend to: no sparse list of side 'user' shares its table "
            "with a single field of side 'ad'; give both the same table, or name them, as "
            "behaviours={'clicked_items': 'item'}"
        )
    return pairs


def _check_pairs(fields: Sequence[Field], pairs: Mapping[str, str]) -> None:
    behaviours = {field.name: field for field in filter(_is_behaviours, fields)}
    queries = {field.name: field for field in filter(_is_query, fields)}
    for name, ad in pairs.items():
        for argument, known, kind in (
            (name, behaviours, "sparse list of side 'user'"),
            (ad, queries, "single sparse field of side 'ad'"),
        ):
            if argument not in known:
                raise SchemaError(
                    f"behaviours names {argument!r}, which is no {kind}; the schema has: "
                    f"{', '.join(known) or 'none'}"
                )
        widths = behaviours[name].embedding_width, queries[ad].embedding_width
        if widths[0] != widths[1]:
            raise SchemaError(
                f"behaviours pairs {name!r} of embedding_width {widths[0]} with {ad!r} of "
                f"{widths[1]}; give both the same width"
            )


def _padded(rows: tf.Tensor, ids: FlatIds) -> tuple[tf.Tensor, tf.Tensor]:
    """Puts the values of a list [N, D] in its rows: [B, T, D] (of groups G), and a mask."""
    if ids.weights is not None:
        rows *= tf.cast(ids.weights, rows.dtype)[:, None]
    lengths = tf.math.unsorted_segment_sum(tf.ones_like(ids.samples), ids.samples, ids.batch_size)
    longest = tf.reduce_max(tf.concat([lengths, [0]], axis=0))
    places = tf.range(tf.size(ids.samples, tf.int64)) - tf.gather(
        tf.cumsum(lengths, exclusive=True), ids.samples
    )
    shape = tf.stack([ids.batch_size, longest, tf.shape(rows, tf.int64)[1]])
    padded = tf.scatter_nd(tf.stack([ids.samples, places], axis=1), rows, shape)
    return tf.ensure_shape(padded, [None, None, rows.shape[1]]), tf.sequence_mask(lengths, longest)
