"""Creating a model's variables before any data has come."""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

from amstf.data import input_specs
from amstf.schema import Schema


def build(model: keras.Model, schema: Schema) -> keras.Model:
    """Creates all variables of a model, so that a checkpoint restores into them at once.

    Keras makes variables in the first call, under `fit` that is deep inside the first step. This
    traces a call with B and T unknown and runs nothing, so that no server is asked for an image;
    to have the variables on servers, call it inside the strategy's scope.

    Args:
        model: A model that takes a batch of the schema.
        schema: Gives names, shapes and dtypes of the batch.

    Returns:
        The model.

    Example:
        >>> from amstf.schema import Field
        >>> schema = Schema((Field("user", "sparse", vocabulary_size=9), Field("click", "label")))
        >>> from models import EmbeddingMlp
        >>> len(build(EmbeddingMlp(schema, hidden=(4,)), schema).weights)
        6
    """
    tf.function(lambda inputs: model(inputs, training=False)).get_concrete_function(
        input_specs(schema)
    )
    return model
