"""Adagrad whose update of a variable, or of touched rows, is one kernel where it lives."""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

from amstf.optimizers.rows import updates_rows


@keras.saving.register_keras_serializable(package="amstf")
class Adagrad(keras.optimizers.Adagrad):
    """Adagrad (Duchi et al., JMLR 12, 2011) for parameter servers and large ID tables.

    Keras' Adagrad with accumulator and weights of a variable, or of the rows that a batch touched,
    updated together in one of TensorFlow's kernels, under their locks:

        a += g^2,   w -= learning_rate * g / (sqrt(a) + epsilon)

    Keras has `sqrt(a + epsilon)`. With the default epsilon of 1e-7 and accumulators that begin at
    0.1 the two differ by less than one part in a million.

    Args:
        learning_rate: A float, a schedule or a callable.
        **kwargs: Further arguments of Keras' Adagrad.

    Example:
        >>> model = keras.Sequential([keras.layers.Embedding(1000, 4), keras.layers.Flatten()])
        >>> model.compile(Adagrad(0.05), "mse")
    """

    def __init__(self, learning_rate: object = 0.001, **kwargs: object) -> None:
        # XLA would compile the update into ops of its own.
        super().__init__(learning_rate, **{**kwargs, "jit_compile": False})

    def update_step(self, gradient: tf.Tensor | tf.IndexedSlices, variable: tf.Variable) -> None:
        """Updates a variable and its accumulator, or rows of a dynamic table and theirs."""
        settings = [self.learning_rate, self.epsilon, self.initial_accumulator_value]
        if updates_rows(self, gradient, variable, "adagrad", settings):
            return
        accumulator = self._accumulators[self._index_dict[self._var_key(variable)]]
        shared = {
            "var": variable.handle,
            "accum": accumulator.handle,
            "lr": tf.cast(self.learning_rate, variable.dtype),
            "epsilon": tf.cast(self.epsilon, variable.dtype),
            "use_locking": True,
        }
        if isinstance(gradient, tf.IndexedSlices):
            tf.raw_ops.ResourceSparseApplyAdagradV2(
                grad=gradient.values, indices=gradient.indices, **shared
            )
        else:
            tf.raw_ops.ResourceApplyAdagradV2(grad=gradient, **shared)
