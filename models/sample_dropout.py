"""Dropout of a whole modality of a sample."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras as keras

from models.keras_names import PACKAGE


@keras.utils.register_keras_serializable(package=PACKAGE)
class SampleDropout(keras.layers.Layer):
    """In training makes several vectors of a sample zero together, with some probability.

    What is kept is not scaled up. Zeros are what a sample without images gives, so they are an
    input that the model meets after training too; ordinary dropout's factor 1 / (1 - rate) is
    there for units that are never missing then.

    Args:
        rate: Probability that a sample's vectors are dropped.
        **kwargs: Arguments of `keras.layers.Layer`.

    Example:
        >>> drop = SampleDropout(0.5)
        >>> [part.shape for part in drop([tf.ones([4, 2]), tf.ones([4, 3])], training=True)]
        [TensorShape([4, 2]), TensorShape([4, 3])]
    """

    def __init__(self, rate: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = rate

    def call(self, inputs: list[tf.Tensor], training: bool | None = None) -> list[tf.Tensor]:
        """Drops of tensors [B, any width], in training, all of a sample or none."""
        if not training or not self.rate:
            return list(inputs)
        kept = tf.random.uniform([tf.shape(inputs[0])[0], 1]) >= self.rate
        return [tf.where(kept, part, tf.zeros_like(part)) for part in inputs]

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "rate": self.rate}
