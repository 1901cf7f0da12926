"""Ways to make one vector of the images of a user's behaviours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from amstf.errors import ConfigError
from models.blocks import PACKAGE, Mlp


class Aggregator(keras.layers.Layer):
    """Base of the aggregators: `aggregator(behaviours, mask, query) -> [B, width]`.

    A subclass implements `aggregate` and may count on clean input: behaviours that the mask leaves
    out are zeros there, even if they were NaN. What it must keep to:

    *   The order of a user's behaviours, and what stands in the padding, have no influence.
    *   A user without behaviours (and a batch with T = 0) gives zeros, never NaN.
    *   All shapes but D may be unknown when traced.

    An aggregator that asks by other things than the ad's image (as the second channel of
    MultiQueryAttentivePooling asks by the ad's ID embeddings) finds them in `ad_ids`.
    """

    needs_query = False
    """Whether `query` must be given; models refuse such an aggregator when the ad has no image."""

    def call(
        self,
        behaviours: tf.Tensor,
        mask: tf.Tensor,
        query: tf.Tensor | None = None,
        ad_ids: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Aggregates.

        Args:
            behaviours: [B, T, D] float, embeddings of the behaviour images.
            mask: [B, T] bool, true where there is a behaviour.
            query: [B, D] float, the embedding of the ad's image.
            ad_ids: [B, any width] float, the ad's ID embeddings.

        Returns:
            [B, width] float; the width is D for the aggregators of this file.

        Raises:
            ConfigError: If the aggregator needs a query and there is none.
        """
        if self.needs_query and query is None:
            raise ConfigError(
                f"{type(self).__name__} needs the ad's image as query and there is none; "
                "use SumPooling, or a schema with an image field of side 'ad'"
            )
        # Selecting (not multiplying by 0) keeps NaN out, forward and backward.
        clean = tf.where(mask[:, :, None], behaviours, tf.zeros_like(behaviours))
        return self.aggregate(clean, mask, query, ad_ids)

    def aggregate(
        self,
        behaviours: tf.Tensor,
        mask: tf.Tensor,
        query: tf.Tensor | None,
        ad_ids: tf.Tensor | None,
    ) -> tf.Tensor:
        """Does the work of `call`; shapes as there, behaviours are zero where there is none."""
        raise NotImplementedError


@keras.utils.register_keras_serializable(package=PACKAGE)
class SumPooling(Aggregator):
    """Adds up the behaviours: `sum_t e_t` (arXiv 1711.06505, section 5).

    Example:
        >>> SumPooling()(tf.ones([1, 3, 2]), tf.constant([[True, True, False]])).numpy().tolist()
        [[2.0, 2.0]]
    """

    def aggregate(
        self,
        behaviours: tf.Tensor,
        mask: tf.Tensor,
        query: tf.Tensor | None,
        ad_ids: tf.Tensor | None,
    ) -> tf.Tensor:
        """See `Aggregator`."""
        return tf.reduce_sum(behaviours, axis=1)


@keras.utils.register_keras_serializable(package=PACKAGE)
class AttentivePooling(Aggregator):
    """Adds up the behaviours, each weighted by how it relates to the ad's image.

    `sum_t a(e_t, q) e_t` with `a = v . mlp([e_t, q, e_t * q, e_t - q]) + c`, the attention of DIN
    (arXiv 1706.06978, section 4.3) with the ad image's embedding as query (arXiv 1711.06505, 5).
    As in DIN the weights are not normalised, so that their sum says how strong the interest is.

    Args:
        hidden: Widths of the attention's MLP.
        activation: Activation of that MLP, see `models.blocks.Mlp`.
        softmax: Normalise the weights of each user to a sum of 1.
        **kwargs: Arguments of `keras.layers.Layer`.

    Example:
        >>> pooling = AttentivePooling()
        >>> pooling(tf.ones([2, 5, 12]), tf.ones([2, 5], tf.bool), tf.ones([2, 12])).shape
        TensorShape([2, 12])
    """

    needs_query = True

    def __init__(
        self,
        hidden: Sequence[int] = (32,),
        activation: str = "prelu",
        softmax: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.softmax = softmax
        self._mlp = Mlp(hidden, activation, name="attention")
        self._score = keras.layers.Dense(1, name="score")

    def aggregate(
        self,
        behaviours: tf.Tensor,
        mask: tf.Tensor,
        query: tf.Tensor | None,
        ad_ids: tf.Tensor | None,
    ) -> tf.Tensor:
        """See `Aggregator`."""
        weights = self.weights_of(behaviours, mask, query)
        return tf.reduce_sum(weights[:, :, None] * behaviours, axis=1)

    def weights_of(
        self,
        behaviours: tf.Tensor,
        mask: tf.Tensor,
        query: tf.Tensor,
    ) -> tf.Tensor:
        """Returns the weights [B, T] that the behaviours get, 0 in the padding."""
        query = tf.broadcast_to(query[:, None, :], tf.shape(behaviours))
        pairs = tf.concat([behaviours, query, behaviours * query, behaviours - query], axis=-1)
        scores = self._score(self._mlp(pairs))[:, :, 0]
        if self.softmax:
            # Finite, so that a user without behaviours is uniform here and zero below, not NaN.
            scores = tf.nn.softmax(tf.where(mask, scores, scores.dtype.min), axis=-1)
        return tf.where(mask, scores, tf.zeros_like(scores))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "hidden": list(self._mlp.widths),
            "activation": self._mlp.activation,
            "softmax": self.softmax,
        }


_BY_NAME = {"sum": SumPooling, "attentive": AttentivePooling}


def make_aggregator(aggregator: str | keras.layers.Layer | None) -> keras.layers.Layer:
    """Returns the aggregator of that name ("sum" if None), or the layer itself.

    Raises:
        ConfigError: If the name is unknown or the argument is no layer.
    """
    if isinstance(aggregator, keras.layers.Layer):
        return aggregator
    try:
        return _BY_NAME[aggregator or "sum"](name="aggregator")
    except (KeyError, TypeError):
        names = " or ".join(repr(name) for name in _BY_NAME)
        raise ConfigError(f"aggregator is {aggregator!r}; use {names}, or a layer") from None
