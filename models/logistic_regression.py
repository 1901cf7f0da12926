"""Logistic regression on ids: one weight per id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from amstf.schema import DENSE, SIDES, Schema
from models.blocks import Mlp
from models.embedding_mlp import EmbeddingMlp
from models.heads import by_label
from models.id_embedding import IdEmbedding, of_width
from models.keras_names import PACKAGE


@keras.utils.register_keras_serializable(package=PACKAGE)
class IdWeights(IdEmbedding):
    """Adds up one weight per id, and puts the dense fields beside the sum: [B, L + dense widths].

    An `IdEmbedding` of width L, one float for each label that is predicted, whose `join` is a sum:
    `sum_f sum_t w_f[id_t]`, over all values t of all sparse fields f (weighted ones times their
    weight). Arguments are those of `IdEmbedding`; the weights begin with zeros.

    Args:
        schema: The fields; their own embedding widths are passed over.
        sides: As in `IdEmbedding`.
        num_labels: Labels (L).
        embeddings_initializer: As in `IdEmbedding`.
        embeddings_regularizer: As in `IdEmbedding`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Example:
        >>> from amstf.schema import Field
        >>> schema = Schema((Field("user", "sparse", vocabulary_size=9), Field("click", "label")))
        >>> IdWeights(schema)({"user": tf.constant([3, 8])}).numpy().tolist()
        [[0.0], [0.0]]
    """

    def __init__(
        self,
        schema: Schema,
        sides: Sequence[str] = SIDES,
        num_labels: int = 1,
        embeddings_initializer: Any = "zeros",
        embeddings_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            of_width(schema, num_labels),
            sides,
            embeddings_initializer,
            embeddings_regularizer,
            **kwargs,
        )
        self.num_labels = num_labels

    def join(self, embedded: Mapping[str, tf.Tensor], side: str | None = None) -> tf.Tensor:
        """Returns the sum [B, L] and the dense fields side by side; of one side as it is."""
        if side is not None:
            return super().join(embedded, side)
        fields = [f for f in self.fields if f.name in embedded]
        weights = [embedded[f.name] for f in fields if f.kind != DENSE]
        dense = [embedded[f.name] for f in fields if f.kind == DENSE]
        if not weights:
            weights = [tf.zeros([tf.shape(dense[0])[0], self.num_labels], dense[0].dtype)]
        return tf.concat([tf.add_n(weights), *dense], axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "num_labels": self.num_labels}


@keras.utils.register_keras_serializable(package=PACKAGE)
class LogisticHead(keras.layers.Layer):
    """The probabilities of a logistic regression: `sigmoid(s + W x + b)`, in float32.

    Args:
        labels: Names of the labels (L of them).
        **kwargs: Arguments of `keras.layers.Layer`.

    Inputs:
        [B, L + any width]: the sums s of `IdWeights`, then what else there is (dense fields, image
        embeddings), x.

    Returns:
        [B, 1] float32, or with several labels a dict of label -> [B, 1].

    Example:
        >>> LogisticHead(["click"])(tf.zeros([2, 1])).numpy().tolist()
        [[0.5], [0.5]]
    """

    def __init__(self, labels: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.labels = list(labels)

    def build(self, input_shape: Any) -> None:
        """Makes b, and W if there is something that it multiplies."""
        width = tf.TensorShape(input_shape)[-1] - len(self.labels)
        self.bias = self.add_weight("bias", [len(self.labels)], initializer="zeros")
        self.kernel = None
        if width:
            shape = [width, len(self.labels)]
            self.kernel = self.add_weight("kernel", shape, initializer="glorot_uniform")
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor | dict[str, tf.Tensor]:
        """Maps [B, L + width] to probabilities."""
        sums, others = tf.split(inputs, [len(self.labels), -1], axis=1)
        logits = sums + self.bias
        if self.kernel is not None:
            logits += tf.matmul(others, self.kernel)
        return by_label(self.labels, tf.cast(logits, tf.float32))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "labels": list(self.labels)}


@keras.utils.register_keras_serializable(package=PACKAGE)
class LogisticRegression(EmbeddingMlp):
    """Click model without hidden layers: `p = sigmoid(sum_f sum_t w_f[id_t] + W x + b)`.

    x are the dense fields. With images, `Dicm(schema, images, base="lr")`, x are the embeddings of
    the images too (LR in figure 5 of arXiv 1711.06505, section 7).

    Args:
        schema: The fields of a batch.
        **kwargs: Arguments of `EmbeddingMlp` but for those of the MLP, which is not there.

    Example:
        >>> from amstf.schema import Field
        >>> schema = Schema((Field("user", "sparse", vocabulary_size=9), Field("click", "label")))
        >>> LogisticRegression(schema)({"user": tf.constant([3, 8])}).numpy().tolist()
        [[0.5], [0.5]]
    """

    @classmethod
    def make_id_embedding(
        cls, schema: Schema, labels: Sequence[str], embeddings_regularizer: Any
    ) -> keras.layers.Layer:
        """Makes the layer from a batch to sums [B, L] and dense fields."""
        return IdWeights(
            schema,
            num_labels=len(labels),
            embeddings_regularizer=embeddings_regularizer,
            name="id_embedding",
        )

    @classmethod
    def make_mlp(
        cls,
        hidden: Sequence[int],
        activation: str | None,
        dropout: float,
        id_embedding: keras.layers.Layer,
    ) -> keras.layers.Layer:
        """Makes the identity."""
        return Mlp((), name="mlp")

    @classmethod
    def make_head(cls, labels: Sequence[str]) -> keras.layers.Layer:
        """Makes the layer that adds all up."""
        return LogisticHead(labels, name="head")
