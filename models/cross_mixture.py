"""The mixture of low-rank cross layers of DCN-V2."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras as keras

from models.cross_network import checked_count
from models.keras_names import PACKAGE


@keras.utils.register_keras_serializable(package=PACKAGE)
class CrossMixture(keras.layers.Layer):
    """Cross layers of K experts of low rank each, which a gate mixes by the input.

    `x_{l+1} = sum_k G_k(x_l) E_k(x_l) + x_l`,
    `E_k(x_l) = x_0 * (U_k g(C_k g(V_k^T x_l)) + b)`, with `G` the softmax of a linear map and `g`
    the hyperbolic tangent (arXiv 2008.13535, section 3.5). The experts of a layer share b.

    Args:
        layers: Layers.
        rank: Columns of U and V (r).
        experts: Experts of a layer (K).
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ConfigError: If one of them is below 1.

    Example:
        >>> CrossMixture(2, rank=3, experts=2)(tf.zeros([2, 5])).shape
        TensorShape([2, 5])
    """

    def __init__(self, layers: int = 3, rank: int = 32, experts: int = 4, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layers = checked_count("layers", layers)
        self.rank = checked_count("rank", rank)
        self.experts = checked_count("experts", experts)

    def build(self, input_shape: Any) -> None:
        """Makes V [width, K r], C [K, r, r], U [K, r, width], b and the gate of each layer."""
        width = tf.TensorShape(input_shape)[-1]
        rank, experts = self.rank, self.experts
        shapes = {
            "v": [width, experts * rank],
            "c": [experts, rank, rank],
            "u": [experts, rank, width],
            "gate": [width, experts],
        }
        self._weights_of = [
            {
                **{
                    name: self.add_weight(f"{name}_{k}", shape, initializer="glorot_uniform")
                    for name, shape in shapes.items()
                },
                "bias": self.add_weight(f"bias_{k}", [width], initializer="zeros"),
            }
            for k in range(self.layers)
        ]
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Maps [B, width] to [B, width]."""
        crossed = inputs
        for weights in self._weights_of:
            narrow = tf.tanh(tf.matmul(crossed, weights["v"]))
            narrow = tf.reshape(narrow, [-1, self.experts, self.rank])
            narrow = tf.tanh(tf.einsum("bkr,krs->bks", narrow, weights["c"]))
            gate = tf.nn.softmax(tf.matmul(crossed, weights["gate"]))
            # Gated before U: the gates add up to 1, so b stands once, and [B, K, width] nowhere.
            mixed = tf.einsum("bks,ksw->bw", narrow * gate[:, :, None], weights["u"])
            crossed = crossed + inputs * (mixed + weights["bias"])
        return crossed

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "layers": self.layers,
            "rank": self.rank,
            "experts": self.experts,
        }
