"""The last layer of a click model: probabilities, of one label or of several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from models.keras_names import PACKAGE


@keras.utils.register_keras_serializable(package=PACKAGE)
class PredictionHead(keras.layers.Layer):
    """One linear unit and a sigmoid: the click probability, in float32.

    The sigmoid is the last operation and not followed by a cast, so that Keras' binary
    cross-entropy finds the logits behind it and stays exact for confident predictions.

    Example:
        >>> PredictionHead()(tf.zeros([2, 3])).numpy().tolist()
        [[0.5], [0.5]]
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._dense = keras.layers.Dense(1, name="logit")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Maps [B, width] to [B, 1] float32."""
        return tf.sigmoid(tf.cast(self._dense(inputs), tf.float32))


@keras.utils.register_keras_serializable(package=PACKAGE)
class LabelHeads(keras.layers.Layer):
    """A `PredictionHead` for each label, side by side on one shared input.

    The simplest multi-task model (shared bottom): each label has a linear unit of its own, and all
    that is below learns from the sum of the losses, which Keras makes of a dict of outputs.

    Args:
        labels: Names of the labels.
        **kwargs: Arguments of `keras.layers.Layer`.

    Example:
        >>> outputs = LabelHeads(["click", "buy"])(tf.zeros([2, 3]))
        >>> {name: output.numpy().tolist() for name, output in outputs.items()}
        {'click': [[0.5], [0.5]], 'buy': [[0.5], [0.5]]}
    """

    def __init__(self, labels: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.labels = list(labels)
        self._heads = [PredictionHead(name=f"head_{k}") for k in range(len(self.labels))]

    def call(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        """Maps [B, width] to a dict of label -> [B, 1] float32."""
        return {label: head(inputs) for label, head in zip(self.labels, self._heads, strict=True)}

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "labels": list(self.labels)}


def by_label(labels: Sequence[str], logits: tf.Tensor) -> tf.Tensor | dict[str, tf.Tensor]:
    """Makes probabilities of float32 logits [B, L]: [B, 1] of one label, or a dict of several."""
    if len(labels) == 1:
        return tf.sigmoid(logits)
    parts = tf.split(logits, len(labels), axis=-1)
    return {label: tf.sigmoid(part) for label, part in zip(labels, parts, strict=True)}
