"""FTRL for dynamic tables; Keras' own for all other variables."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras as keras

from amstf.optimizers.rows import updates_rows


@keras.saving.register_keras_serializable(package="amstf")
class Ftrl(keras.optimizers.Ftrl):
    """FTRL-Proximal (McMahan et al., KDD 2013) for dynamic tables.

    Rows of a `DynamicEmbedding` are updated where they live, accumulator, linear term and weights
    of a row in one kernel. Other variables are updated as by Keras' Ftrl, which takes no sparse
    gradients.

    Args:
        learning_rate: A float, a schedule or a callable.
        **kwargs: Further arguments of Keras' Ftrl.

    Example:
        >>> Ftrl(0.05, l1_regularization_strength=0.001).initial_accumulator_value
        0.1
    """

    def __init__(self, learning_rate: Any = 0.001, **kwargs: Any) -> None:
        # XLA would compile the update into ops of its own, and knows no custom op.
        super().__init__(learning_rate, **{**kwargs, "jit_compile": False})

    def update_step(self, gradient: tf.Tensor | tf.IndexedSlices, variable: tf.Variable) -> None:
        """Updates a variable, or the rows of a dynamic table."""
        settings = [
            self.learning_rate,
            self.learning_rate_power,
            self.l1_regularization_strength,
            self.l2_regularization_strength,
            self.l2_shrinkage_regularization_strength,
            self.beta,
            self.initial_accumulator_value,
        ]
        if not updates_rows(self, gradient, variable, "ftrl", settings):
            super().update_step(gradient, variable)
