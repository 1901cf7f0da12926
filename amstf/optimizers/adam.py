"""Adam whose update of a variable, or of touched rows, is one kernel where the variable lives."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras as keras

from amstf.errors import ConfigError
from amstf.ops.sparse_adam import sparse_adam
from amstf.optimizers.rows import updates_rows


@keras.saving.register_keras_serializable(package="amstf")
class Adam(keras.optimizers.Adam):
    """Adam (arXiv 1412.6980) for parameter servers and large ID tables.

    The same formula as Keras' Adam, applied differently:

    - A weight and its two moments change in one kernel, under their locks. Keras updates them by
      separate ops, between which another worker's ops may run: it then divides a new first moment
      by an old second one.
    - Of a table only the rows that a batch touched are updated (lazy Adam), so a step costs O(rows
      touched) instead of O(rows of the table). Untouched rows keep their moments, where Keras' Adam
      would let them decay and go on moving the row.

    Args:
        learning_rate: A float, a schedule or a callable, as for Keras' Adam.
        **kwargs: Further arguments of Keras' Adam, except `amsgrad`.

    Raises:
        ConfigError: If `amsgrad` is asked for.

    Example:
        >>> model = keras.Sequential([keras.layers.Embedding(1000, 4), keras.layers.Flatten()])
        >>> model.compile(Adam(0.001), "mse")
    """

    def __init__(self, learning_rate: Any = 0.001, **kwargs: Any) -> None:
        if kwargs.get("amsgrad"):
            raise ConfigError("amsgrad is not supported; leave it out, or use keras' Adam")
        # XLA would compile the update into ops of its own, and knows no custom op.
        super().__init__(learning_rate, **{**kwargs, "jit_compile": False})

    def update_step(self, gradient: tf.Tensor | tf.IndexedSlices, variable: tf.Variable) -> None:
        """Updates a variable and its moments, or rows of a dynamic table and theirs."""
        settings = [self.learning_rate, self.beta_1, self.beta_2, self.epsilon]
        if updates_rows(self, gradient, variable, "adam", settings):
            return
        index = self._index_dict[self._var_key(variable)]
        first, second = self._momentums[index], self._velocities[index]
        step = self.iterations + 1
        if isinstance(gradient, tf.IndexedSlices):
            sparse_adam(
                variable,
                first,
                second,
                gradient,
                learning_rate=self.learning_rate,
                beta1=self.beta_1,
                beta2=self.beta_2,
                epsilon=self.epsilon,
                step=step,
            )
            return
        power = tf.cast(step, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=first.handle,
            v=second.handle,
            beta1_power=tf.pow(tf.cast(self.beta_1, variable.dtype), power),
            beta2_power=tf.pow(tf.cast(self.beta_2, variable.dtype), power),
            lr=tf.cast(self.learning_rate, variable.dtype),
            beta1=tf.cast(self.beta_1, variable.dtype),
            beta2=tf.cast(self.beta_2, variable.dtype),
            epsilon=tf.cast(self.epsilon, variable.dtype),
            grad=gradient,
            use_locking=True,
        )
