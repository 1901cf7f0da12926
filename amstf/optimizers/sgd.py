"""SGD without momentum: exact when several workers train, and for dynamic tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from amstf.errors import ConfigError
from amstf.optimizers.rows import updates_rows


@keras.saving.register_keras_serializable(package="amstf")
class SGD(keras.optimizers.SGD):
    """Stochastic gradient descent for parameter servers, ID tables and dynamic tables.

    w -= learning_rate * g, of a variable or of the rows that a batch touched, in one kernel. Keras'
    SGD goes through a momentum variable of the size of the weights even without momentum, by
    several operations between which another worker's may run (docs/design/optimizers.md).

    Args:
        learning_rate: A float, a schedule or a callable.
        **kwargs: Further arguments of Keras' SGD, except `momentum` and `nesterov`.

    Raises:
        ConfigError: If a momentum is asked for.

    Example:
        >>> model = keras.Sequential([keras.layers.Embedding(1000, 4), keras.layers.Flatten()])
        >>> model.compile(SGD(0.1), "mse")
    """

    def __init__(self, learning_rate: Any = 0.01, **kwargs: Any) -> None:
        if kwargs.get("momentum") or kwargs.get("nesterov"):
            raise ConfigError("momentum is not supported; leave it out, or use keras' SGD")
        # XLA would compile the update into ops of its own, and knows no custom op.
        super().__init__(learning_rate, **{**kwargs, "jit_compile": False})

    def build(self, var_list: Sequence[tf.Variable]) -> None:
        """Makes no momentum for any variable."""
        keras.optimizers.Optimizer.build(self, var_list)
        self.momentums: list[tf.Variable] = []
        self._built = True

    def update_step(self, gradient: tf.Tensor | tf.IndexedSlices, variable: tf.Variable) -> None:
        """Updates a variable, or the rows of a dynamic table."""
        if updates_rows(self, gradient, variable, "sgd", [self.learning_rate]):
            return
        shared = {
            "var": variable.handle,
            "alpha": tf.cast(self.learning_rate, variable.dtype),
            "use_locking": True,
        }
        if isinstance(gradient, tf.IndexedSlices):
            # Without its two penalties it is plain SGD, in a kernel that can be told to lock.
            none = tf.zeros([], variable.dtype)
            tf.raw_ops.ResourceSparseApplyProximalGradientDescent(
                grad=gradient.values, indices=gradient.indices, l1=none, l2=none, **shared
            )
        else:
            tf.raw_ops.ResourceApplyGradientDescent(delta=gradient, **shared)
