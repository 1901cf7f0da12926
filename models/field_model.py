"""What models of field interactions with a linear part share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tf_keras as keras

from amstf.schema import Schema
from models.embedding_mlp import EmbeddingMlp
from models.field_embedding import FieldEmbedding
from models.logistic_regression import LogisticHead


class LinearFieldModel(EmbeddingMlp):
    """Base of click models that add a logistic regression to what they learn of interactions."""

    @classmethod
    def make_id_embedding(
        cls, schema: Schema, labels: Sequence[str], embeddings_regularizer: Any
    ) -> keras.layers.Layer:
        """Makes the layer from a batch to sums, vectors of fields, and numbers."""
        return FieldEmbedding(
            schema,
            num_sums=len(labels),
            embeddings_regularizer=embeddings_regularizer,
            name="id_embedding",
        )

    @classmethod
    def make_head(cls, labels: Sequence[str]) -> keras.layers.Layer:
        """Makes the layer that adds up the sums and all else, weighed."""
        return LogisticHead(labels, name="head")
