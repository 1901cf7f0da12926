"""Aggregators that weigh each behaviour by how it relates to the ad."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from amstf.errors import ConfigError
from models.aggregator import Aggregator
from models.blocks import Mlp
from models.keras_names import PACKAGE


class PairDense(keras.layers.Dense):
    """A linear layer of the pairs `[e, q, e * q, e - q]`, without making them.

    With the kernel cut into W_e, W_q, W_p and W_d, each [D, units],

        [e, q, e * q, e - q] W + b = e (W_e + W_d + diag(q) W_p) + q (W_q - W_d) + b

    so a sample costs one product of its behaviours [T, D] with a matrix [D, units] of its own; the
    pairs would take [T, 4 D], and four times the work. Weights are those of a `Dense` on the pairs.
    """

    def build(self, input_shape: Any) -> None:
        """Makes kernel [4 D, units] and bias for behaviours [B, T, D]."""
        super().build(tf.TensorShape([None, 4 * tf.TensorShape(input_shape)[-1]]))
        self.input_spec = None

    def call(self, behaviours: tf.Tensor, query: tf.Tensor) -> tf.Tensor:
        """Maps [B, T, D] and [B, D] to [B, T, units]."""
        kernel, bias = self.of(query)
        return tf.matmul(behaviours, kernel) + bias[:, None, :]

    def of(self, query: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns what a query [B, D] makes of the layer: kernels [B, D, units], biases [B, units].

        The layer is linear in the behaviours: `e kernel + bias`.
        """
        kernel = tf.cast(tf.convert_to_tensor(self.kernel), query.dtype)
        of_behaviour, of_query, of_product, of_difference = tf.split(kernel, 4)
        kernels = of_behaviour + of_difference + query[:, :, None] * of_product
        return kernels, tf.matmul(query, of_query - of_difference) + tf.cast(self.bias, query.dtype)


class PairMlp(Mlp):
    """An `Mlp` of the pairs of behaviours and query; the identity of them is never asked for."""

    @property
    def prelu(self) -> tuple[PairDense, keras.layers.PReLU] | None:
        """The layers, once they are made, if they are one linear layer and a PReLU, else None."""
        if len(self._steps) == 2 and isinstance(self._steps[1], keras.layers.PReLU):
            return self._steps[0], self._steps[1]
        return None

    def dense_type(self, index: int) -> type[keras.layers.Dense]:
        """See `Mlp.dense_type`."""
        return keras.layers.Dense if index else PairDense

    def call(
        self, behaviours: tf.Tensor, query: tf.Tensor, counted: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Maps behaviours [B, T, D] and query [B, D] to [B, T, widths[-1]]."""
        return self._run(self._steps[1:], self._steps[0](behaviours, query), counted)


@keras.utils.register_keras_serializable(package=PACKAGE)
class AttentivePooling(Aggregator):
    """Adds up the behaviours, each weighted by how it relates to the ad: [B, D].

    `sum_t a(e_t, q) e_t` with `a = v . mlp([e_t, q, e_t * q, e_t - q]) + c`, the activation unit of
    DIN (arXiv 1706.06978, section 4.3) with the ad image's embedding as query (arXiv 1711.06505,
    5). As in DIN the weights are not normalised, so that their sum says how strong the interest is.

    Memory is O(B T): the pairs are not made, see docs/design/models.md for figures.

    Args:
        hidden: Widths of the attention's MLP.
        activation: Activation of that MLP, see `models.blocks.Mlp`.
        softmax: Normalise the weights of each user to a sum of 1; at first they are all the same.
        **kwargs: Arguments of `keras.layers.Layer`.

    Example:
        >>> pooling = AttentivePooling()
        >>> pooling(tf.ones([2, 5, 12]), tf.ones([2, 5], tf.bool), tf.ones([2, 12])).shape
        TensorShape([2, 12])
    """

    needs_query = True
    shares_user = True

    def __init__(
        self,
        hidden: Sequence[int] = (32,),
        activation: str = "prelu",
        softmax: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.softmax = softmax
        self._mlp = PairMlp(hidden, activation, name="attention")
        layer = keras.layers.Dense if self._mlp.widths else PairDense
        # Zeros, so that weights of a sum of 1 begin as a mean.
        initializer = "zeros" if softmax else "glorot_uniform"
        self._score = layer(1, kernel_initializer=initializer, name="score")

    def aggregate(
        self,
        behaviours: tf.Tensor,
        mask: tf.Tensor,
        query: tf.Tensor | None,
        ad_ids: tf.Tensor | None,
    ) -> tf.Tensor:
        """See `Aggregator`."""
        weights = self.weights_of(behaviours, mask, query)
        if behaviours.shape[0] == 1:
            return tf.matmul(weights, behaviours[0])
        return tf.linalg.matvec(behaviours, weights, transpose_a=True)

    def weights_of(
        self,
        behaviours: tf.Tensor,
        mask: tf.Tensor,
        query: tf.Tensor,
    ) -> tf.Tensor:
        """Returns the weights [B, T] that the behaviours get, 0 in the padding."""
        if query.shape[-1] != behaviours.shape[-1]:
            raise ConfigError(
                f"{type(self).__name__} got behaviours of width {behaviours.shape[-1]} and a query "
                f"of width {query.shape[-1]}; embed both with the same width"
            )
        scores = self._scores_of(behaviours, mask, query)
        if self.softmax:
            # Finite, so that a user without behaviours is uniform here and zero below, not NaN.
            scores = tf.nn.softmax(tf.where(mask, scores, scores.dtype.min), axis=-1)
        return tf.where(mask, scores, tf.zeros_like(scores))

    def _scores_of(self, behaviours: tf.Tensor, mask: tf.Tensor, query: tf.Tensor) -> tf.Tensor:
        """Returns scores of pairs, [B, T], of behaviours [B, T, D] or [1, T, D]."""
        if self._mlp.prelu is None or not self._score.built:
            # The first call makes the weights.
            mask = tf.broadcast_to(mask, [tf.shape(query)[0], tf.shape(mask)[1]])
            return self._of_layers(behaviours, mask, query)
        # v . PReLU(x) = v (1 - a) . relu(x) + v a . x, of which the second is linear in the
        # behaviour: one operation on the [B, T, units] of the pairs in place of PReLU's five.
        pairs, prelu = self._mlp.prelu
        kernel, bias = pairs.of(query)
        v = tf.cast(self._score.kernel, query.dtype)
        slope = tf.reshape(tf.cast(prelu.alpha, query.dtype), [-1, 1])
        linear, shift = tf.matmul(kernel, v * slope), tf.matmul(bias, v * slope) + self._score.bias
        if behaviours.shape[0] != 1:
            rectified = tf.nn.relu(tf.matmul(behaviours, kernel) + bias[:, None, :])
            scores = tf.tensordot(rectified, v * (1 - slope), 1) + tf.matmul(behaviours, linear)
            return tf.squeeze(scores, axis=-1) + shift
        # One user: all ads in one matrix product, [T, D] by [D, B units].
        behaviours, width = behaviours[0], behaviours.shape[-1]
        kernels = tf.reshape(tf.transpose(kernel, [1, 0, 2]), [width, -1])
        rectified = tf.nn.relu(tf.matmul(behaviours, kernels) + tf.reshape(bias, [-1]))
        shape = [tf.shape(behaviours)[0], tf.shape(query)[0], v.shape[0]]
        scores = tf.tensordot(tf.reshape(rectified, shape), tf.squeeze(v * (1 - slope), -1), 1)
        scores += tf.matmul(behaviours, tf.squeeze(linear, axis=-1), transpose_b=True)
        return tf.transpose(scores) + shift

    def _of_layers(self, behaviours: tf.Tensor, mask: tf.Tensor, query: tf.Tensor) -> tf.Tensor:
        """Returns the same by the layers, one after the other."""
        if self._mlp.widths:
            scores = self._score(self._mlp(behaviours, query, mask))
        else:
            scores = self._score(behaviours, query)
        return tf.squeeze(scores, axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "hidden": list(self._mlp.widths),
            "activation": self._mlp.activation,
            "softmax": self.softmax,
        }


@keras.utils.register_keras_serializable(package=PACKAGE)
class MultiQueryAttentivePooling(Aggregator):
    """Two attentions side by side, one asks by the ad's image, one by the ad's ids: [B, 2 D].

    `[sum_t a(e_t, q) e_t, sum_t b(e_t, P i) e_t]` with q the ad image's embedding, i the ad's ID
    embeddings, and a and b two networks like that of `AttentivePooling` (arXiv 1711.06505, section
    5). P is learnt and linear: it gives the ids the width D, in which they can be multiplied with
    and taken from a behaviour.

    Args:
        hidden: Widths of the MLP of each attention.
        activation: Activation of these MLPs, see `models.blocks.Mlp`.
        softmax: Normalise the weights of each user and channel to a sum of 1; at first they are
            all the same.
        **kwargs: Arguments of `keras.layers.Layer`.

    Example:
        >>> pooling = MultiQueryAttentivePooling()
        >>> mask = tf.ones([2, 5], tf.bool)
        >>> pooling(tf.ones([2, 5, 12]), mask, tf.ones([2, 12]), tf.ones([2, 30])).shape
        TensorShape([2, 24])
    """

    needs_query = True
    needs_ad_ids = True
    shares_user = True

    def __init__(
        self,
        hidden: Sequence[int] = (32,),
        activation: str = "prelu",
        softmax: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._by_image = AttentivePooling(hidden, activation, softmax, name="by_image")
        self._by_ids = AttentivePooling(hidden, activation, softmax, name="by_ids")

    def build(self, input_shape: Any) -> None:
        """Makes P, as only now D is known."""
        width = tf.TensorShape(input_shape)[-1]
        self._query_of_ids = keras.layers.Dense(width, use_bias=False, name="query_of_ids")
        super().build(input_shape)

    def aggregate(
        self,
        behaviours: tf.Tensor,
        mask: tf.Tensor,
        query: tf.Tensor | None,
        ad_ids: tf.Tensor | None,
    ) -> tf.Tensor:
        """See `Aggregator`."""
        by_image = self._by_image(behaviours, mask, query)
        by_ids = self._by_ids(behaviours, mask, self._query_of_ids(ad_ids))
        return tf.concat([by_image, by_ids], axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        channel = self._by_image.get_config()
        arguments = {name: channel[name] for name in ("hidden", "activation", "softmax")}
        return {**super().get_config(), **arguments}
