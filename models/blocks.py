"""Small stacks of stock Keras layers that the models are built from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from amstf.errors import ConfigError
from models.dice import Dice
from models.keras_names import PACKAGE


@keras.utils.register_keras_serializable(package=PACKAGE)
class Mlp(keras.layers.Layer):
    """Fully connected layers, each followed by an activation and, if asked, dropout.

    `x_{l+1} = a(W_l x_l + b_l)`, with PReLU for `a` as in arXiv 1711.06505, section 7.1.

    Args:
        widths: Outputs of each layer; empty for the identity.
        activation: "prelu" (one learnt slope per unit), "dice" (see `models.Dice`), or the name of
            a Keras activation.
        dropout: Share of the outputs of each layer to drop in training.
        kernel_initializer: Initializer of the kernels.
        kernel_regularizer: Regularizer of the kernels.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ConfigError: If a width is below 1 or dropout is not in [0, 1).

    Example:
        >>> Mlp((8, 4))(tf.zeros([2, 3])).shape
        TensorShape([2, 4])
    """

    def __init__(
        self,
        widths: Sequence[int],
        activation: str = "prelu",
        dropout: float = 0.0,
        kernel_initializer: Any = "glorot_uniform",
        kernel_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.widths = _checked_widths("widths", widths)
        self.activation = activation
        self.dropout = _checked_dropout(dropout)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self._steps: list[keras.layers.Layer] = []

    def build(self, input_shape: Any) -> None:
        """Makes the layers, as only now the rank of the input is known."""
        # PReLU would otherwise learn a slope per position and refuse an unknown T.
        shared_axes = list(range(1, tf.TensorShape(input_shape).rank - 1)) or None
        for index, width in enumerate(self.widths):
            # An initializer without a seed must not be shared: it repeats its numbers.
            initializer = _clone(self.kernel_initializer)
            self._steps.append(
                self.dense_type(index)(
                    width,
                    kernel_initializer=initializer,
                    kernel_regularizer=self.kernel_regularizer,
                )
            )
            self._steps.append(_activation(self.activation, shared_axes))
            if self.dropout:
                self._steps.append(keras.layers.Dropout(self.dropout))
        super().build(input_shape)

    @property
    def kernels(self) -> list[tf.Variable]:
        """The kernels [width_in, width_out] of its linear layers, once they are made."""
        return [step.kernel for step in self._steps if isinstance(step, keras.layers.Dense)]

    def dense_type(self, index: int) -> type[keras.layers.Dense]:
        """Class of the linear part of a layer, for subclasses whose input has another form."""
        return keras.layers.Dense

    def call(self, inputs: tf.Tensor, counted: tf.Tensor | None = None) -> tf.Tensor:
        """Maps [..., width_in] to [..., widths[-1]].

        Args:
            inputs: [..., width_in] float.
            counted: [...] bool, the rows that are no padding, for activations with statistics.

        Returns:
            [..., widths[-1]] float.
        """
        return self._run(self._steps, inputs, counted)

    @staticmethod
    def _run(
        steps: Sequence[keras.layers.Layer], inputs: tf.Tensor, counted: tf.Tensor | None
    ) -> tf.Tensor:
        outputs = inputs
        for step in steps:
            outputs = step(outputs, counted) if isinstance(step, Dice) else step(outputs)
        return outputs

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "widths": list(self.widths),
            "activation": self.activation,
            "dropout": self.dropout,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
        }


def image_tower(
    widths: Sequence[int] = (256, 64, 12),
    activation: str = "prelu",
    dropout: float = 0.0,
    name: str = "image_tower",
) -> keras.Sequential:
    """Makes the trainable part of the embedding model E: fully connected F-256-64-12.

    The fixed part (VGG16 up to FC6) has made the stored features already (arXiv 1711.06505, 5).
    A plain `keras.Sequential`, because servers rebuild E from its configuration.

    Args:
        widths: Outputs of each layer; the last one is D, the width of the embeddings.
        activation: "prelu" or the name of a Keras activation; after each layer, the last too.
        dropout: Share of the outputs of each inner layer to drop in training.
        name: Name of the model.

    Returns:
        A model from [U, F] to [U, D] float32; F is taken from the first input.

    Raises:
        ConfigError: If there is no width, one is below 1, or dropout is not in [0, 1).

    Example:
        >>> image_tower((8, 3))(tf.zeros([5, 4096])).shape
        TensorShape([5, 3])
    """
    widths, dropout = _checked_widths("widths", widths), _checked_dropout(dropout)
    if activation == "dice":
        raise ConfigError(
            "activation is 'dice', which depends on the batch; E embeds each image by itself, so "
            "use 'prelu' or the name of a Keras activation"
        )
    if not widths:
        raise ConfigError("widths is empty; the last width is that of the image embeddings")
    steps: list[keras.layers.Layer] = []
    for width in widths:
        if steps and dropout:
            steps.append(keras.layers.Dropout(dropout))
        steps += [keras.layers.Dense(width), _activation(activation, None)]
    return keras.Sequential(steps, name=name)


def _activation(name: str, shared_axes: list[int] | None) -> keras.layers.Layer:
    if name == "prelu":
        return keras.layers.PReLU(shared_axes=shared_axes)
    if name == "dice":
        return Dice()
    try:
        return keras.layers.Activation(name)
    except ValueError as error:
        raise ConfigError(
            f"activation is {name!r}; use 'prelu', 'dice' or the name of a Keras activation"
        ) from error


def _clone(initializer: Any) -> Any:
    return initializer.__class__.from_config(initializer.get_config())


def _checked_widths(name: str, widths: Sequence[int]) -> tuple[int, ...]:
    if isinstance(widths, (int, str)) or not all(isinstance(w, int) and w > 0 for w in widths):
        raise ConfigError(f"{name} is {widths!r}; give whole numbers of at least 1, as (128, 64)")
    return tuple(widths)


def _checked_dropout(dropout: float) -> float:
    if not 0 <= dropout < 1:
        raise ConfigError(f"dropout is {dropout!r}; give a share from 0 up to, not including, 1")
    return dropout
