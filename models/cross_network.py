"""Cross networks of DCN and DCN-V2: explicit products of features, one degree more a layer."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras as keras

from amstf.errors import ConfigError
from models.keras_names import PACKAGE


@keras.utils.register_keras_serializable(package=PACKAGE)
class CrossNetwork(keras.layers.Layer):
    """The cross network of DCN, whose layers have one vector of weights each.

    `x_{l+1} = x_0 (x_l . w_l) + b_l + x_l` (arXiv 1708.05123, section 2.2): L layers make products
    of up to L + 1 features with 2 L width weights.

    Args:
        layers: Layers (L).
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ConfigError: If there is no layer.

    Example:
        >>> CrossNetwork(2)(tf.zeros([2, 5])).shape
        TensorShape([2, 5])
    """

    def __init__(self, layers: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layers = checked_count("layers", layers)

    def build(self, input_shape: Any) -> None:
        """Makes the weights of all layers."""
        width = tf.TensorShape(input_shape)[-1]
        self.kernels = [
            self.add_weight(f"kernel_{k}", [width, 1], initializer="glorot_uniform")
            for k in range(self.layers)
        ]
        self.biases = [
            self.add_weight(f"bias_{k}", [width], initializer="zeros") for k in range(self.layers)
        ]
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Maps [B, width] to [B, width]."""
        crossed = inputs
        for kernel, bias in zip(self.kernels, self.biases, strict=True):
            crossed = crossed + inputs * tf.matmul(crossed, kernel) + bias
        return crossed

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "layers": self.layers}


@keras.utils.register_keras_serializable(package=PACKAGE)
class CrossNetworkV2(keras.layers.Layer):
    """The cross network of DCN-V2, whose layers have a matrix each, full or of low rank.

    `x_{l+1} = x_0 * (W_l x_l + b_l) + x_l` with elementwise `*` (arXiv 2008.13535, section 3.2);
    with a rank r `W_l = U_l V_l^T`, U and V of r columns (section 3.5): 2 r width weights instead
    of width^2, for inputs of thousands of floats.

    Args:
        layers: Layers.
        rank: Columns of U and V (r); 0 for a full matrix.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ConfigError: If there is no layer, or the rank is negative.

    Example:
        >>> CrossNetworkV2(2, rank=3)(tf.zeros([2, 5])).shape
        TensorShape([2, 5])
    """

    def __init__(self, layers: int = 3, rank: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layers = checked_count("layers", layers)
        self.rank = checked_count("rank", rank, low=0)

    def build(self, input_shape: Any) -> None:
        """Makes the linear maps of all layers."""
        width = tf.TensorShape(input_shape)[-1]
        self._narrow = [
            keras.layers.Dense(self.rank, use_bias=False, name=f"narrow_{k}")
            for k in range(self.layers if self.rank else 0)
        ]
        self._wide = [keras.layers.Dense(width, name=f"wide_{k}") for k in range(self.layers)]
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Maps [B, width] to [B, width]."""
        crossed = inputs
        for index, wide in enumerate(self._wide):
            seen = self._narrow[index](crossed) if self.rank else crossed
            crossed = crossed + inputs * wide(seen)
        return crossed

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "layers": self.layers, "rank": self.rank}


def checked_count(name: str, value: int, low: int = 1) -> int:
    """Returns a whole number of at least `low`; raises ConfigError."""
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ConfigError(f"{name} is {value!r}; give a whole number of at least {low}")
    return value
