"""An embedding model that knows what to say of an image without features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tf_keras as keras


@keras.saving.register_keras_serializable(package="amstf")
class LearntMissing(keras.layers.Layer):
    """An embedding model E and, beside it, a learnt vector for images that a store lacks.

    `AmsEmbedding(..., missing="learn")` makes one of its E. The vector is a weight of the model, so
    it is copied to the servers, trained, saved and exported as those of E are; with two stores that
    share E they share it. It begins as zeros and stays so if no image is ever missing.

    Args:
        embedding_model: E, [n, F] float32 -> [n, D].
        **kwargs: Arguments of `keras.layers.Layer`.

    Attributes:
        missing_embedding: The vector, [D] float32.

    Example:
        >>> layer = LearntMissing(keras.layers.Dense(2))
        >>> layer(tf.ones([5, 3])).shape, layer.missing_embedding.numpy().tolist()
        (TensorShape([5, 2]), [0.0, 0.0])
    """

    def __init__(self, embedding_model: keras.layers.Layer, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.embedding_model = embedding_model

    def build(self, input_shape: Any) -> None:
        """Builds E, and makes the vector."""
        if not self.embedding_model.built:
            self.embedding_model.build(input_shape)
        width = self.embedding_model.compute_output_shape(input_shape)[-1]
        self.missing_embedding = self.add_weight(
            "missing_embedding", shape=[width], initializer="zeros"
        )
        super().build(input_shape)

    def call(self, features: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Runs E on features [n, F]: [n, D]."""
        return self.embedding_model(features, training=training)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """As E."""
        return self.embedding_model.compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        model = keras.saving.serialize_keras_object(self.embedding_model)
        return {**super().get_config(), "embedding_model": model}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> LearntMissing:
        """Makes the layer again."""
        return cls(**with_embedding_model(config))


def with_embedding_model(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration of a layer with E in place of the description of it."""
    described = config["embedding_model"]
    # A model saved as .h5 holds Keras' older form.
    model = keras.layers.deserialize(described, use_legacy_format="module" not in described)
    return {**config, "embedding_model": model}


def learning_missing(embedding_model: keras.layers.Layer) -> LearntMissing:
    """Returns E with a learnt vector for missing images; E itself if it has one."""
    if isinstance(embedding_model, LearntMissing):
        return embedding_model
    return LearntMissing(embedding_model, name=f"{embedding_model.name}_or_missing")


def missing_embedding(embedding_model: keras.layers.Layer) -> tf.Variable | None:
    """Returns the vector of missing images that E has learnt; None if theirs are zeros."""
    return getattr(embedding_model, "missing_embedding", None)
