"""Aggregators that look at the behaviours alone, and all aggregators by name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tf_keras as keras

from amstf.errors import ConfigError
from models.aggregator import Aggregator, BehaviourPooling
from models.attention import AttentivePooling, MultiQueryAttentivePooling
from models.keras_names import PACKAGE


@keras.utils.register_keras_serializable(package=PACKAGE)
class SumPooling(BehaviourPooling):
    """Adds up the behaviours: `sum_t e_t`, [B, D] (arXiv 1711.06505, section 5).

    Example:
        >>> SumPooling()(tf.ones([1, 3, 2]), tf.constant([[True, True, False]])).numpy().tolist()
        [[2.0, 2.0]]
    """

    def pool(self, behaviours: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """See `BehaviourPooling`."""
        return tf.reduce_sum(behaviours, axis=1)


@keras.utils.register_keras_serializable(package=PACKAGE)
class MeanPooling(BehaviourPooling):
    """Takes the mean of the behaviours: `sum_t e_t / T`, [B, D]; zeros for a user without.

    Not in the paper. Where some users have two behaviours and others hundreds, sums differ in size
    more than in what they say.

    Example:
        >>> behaviours = tf.constant([[[1.0, -2.0], [3.0, 0.0], [9.0, 9.0]]])
        >>> MeanPooling()(behaviours, tf.constant([[True, True, False]])).numpy().tolist()
        [[2.0, -1.0]]
    """

    def pool(self, behaviours: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """See `BehaviourPooling`."""
        count = tf.reduce_sum(tf.cast(mask, behaviours.dtype), axis=1, keepdims=True)
        return tf.math.divide_no_nan(tf.reduce_sum(behaviours, axis=1), count)


@keras.utils.register_keras_serializable(package=PACKAGE)
class MaxPooling(BehaviourPooling):
    """Takes the greatest of the behaviours in each dimension: `max_t e_t`, [B, D].

    One of the aggregators that arXiv 1711.06505, section 5, compares with. Zeros for a user without
    behaviours, which a maximum of nothing would not be.

    Example:
        >>> behaviours = tf.constant([[[1.0, -2.0], [0.0, -1.0], [9.0, 9.0]]])
        >>> MaxPooling()(behaviours, tf.constant([[True, True, False]])).numpy().tolist()
        [[1.0, -1.0]]
    """

    def pool(self, behaviours: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """See `BehaviourPooling`."""
        # The lowest and not -inf: its gradient is zero instead of NaN.
        lowest = tf.fill(tf.shape(behaviours), behaviours.dtype.min)
        greatest = tf.reduce_max(tf.where(mask[:, :, None], behaviours, lowest), axis=1)
        has_some = tf.reduce_any(mask, axis=1, keepdims=True)
        return tf.where(has_some, greatest, tf.zeros_like(greatest))


@keras.utils.register_keras_serializable(package=PACKAGE)
class ConcatPooling(BehaviourPooling):
    """Puts the newest behaviours side by side: `[e_1, ..., e_length]`, [B, length D].

    One of the aggregators that arXiv 1711.06505, section 5, compares with, and the only one in
    which the order counts. Longer lists are cut, shorter ones filled with zeros.

    Args:
        length: Behaviours to take.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ConfigError: If length is below 1.

    Example:
        >>> mask = tf.constant([[True, False, True]])
        >>> ConcatPooling(2)(tf.ones([1, 3, 2]), mask).numpy().tolist()
        [[1.0, 1.0, 0.0, 0.0]]
    """

    def __init__(self, length: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(length, int) or length < 1:
            raise ConfigError(f"length is {length!r}; give a whole number of at least 1")
        self.length = length

    def pool(self, behaviours: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """See `BehaviourPooling`."""
        newest = behaviours[:, : self.length]
        missing = self.length - tf.shape(newest)[1]
        filled = tf.pad(newest, [[0, 0], [0, missing], [0, 0]])
        return tf.reshape(filled, [-1, self.length * behaviours.shape[-1]])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "length": self.length}


_BY_NAME: dict[str, Callable[..., Aggregator]] = {
    "sum": SumPooling,
    "mean": MeanPooling,
    "max": MaxPooling,
    "concat": ConcatPooling,
    "attentive": AttentivePooling,
    "multi_query": MultiQueryAttentivePooling,
    # Weights of a sum of 1: the mean is where they begin, which needs fewer samples to be of use.
    "attentive_mean": functools.partial(AttentivePooling, softmax=True),
    "multi_query_mean": functools.partial(MultiQueryAttentivePooling, softmax=True),
}

AGGREGATORS = tuple(_BY_NAME)
"""Names that `make_aggregator` knows."""


def make_aggregator(
    aggregator: str | keras.layers.Layer | None,
    max_length: int | None = None,
    name: str = "aggregator",
) -> keras.layers.Layer:
    """Returns the aggregator of that name ("sum" if None), or the layer itself.

    Args:
        aggregator: One of `AGGREGATORS`, or a layer.
        max_length: Behaviours of the longest list, which "concat" takes all of.
        name: Name of a layer that is made.

    Raises:
        ConfigError: If the name is unknown, the argument is no layer, or "concat" has no length.
    """
    if isinstance(aggregator, keras.layers.Layer):
        return aggregator
    try:
        make = _BY_NAME[aggregator or "sum"]
    except (KeyError, TypeError):
        names = ", ".join(map(repr, AGGREGATORS))
        raise ConfigError(f"aggregator is {aggregator!r}; use one of {names}, or a layer") from None
    if make is not ConcatPooling:
        return make(name=name)
    if max_length is None:
        raise ConfigError(
            "aggregator 'concat' needs to know how many behaviours to take: give the schema's "
            "field a max_length, or pass models.ConcatPooling(length)"
        )
    return ConcatPooling(max_length, name=name)
