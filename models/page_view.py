"""One user and many ads, as a page view asks: what is the user's is computed once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tf_keras as keras

from amstf.data import GROUP_INDEX, input_specs
from amstf.schema import Schema
from amstf.signatures import SCORE_ADS, ServedPart, embedding_name, named_outputs


def page_view_parts(model: keras.Model, schema: Schema) -> dict[str, ServedPart]:
    """Returns the signature `score_ads` of a model that takes batches of groups.

    The user's fields have one row, those of the ads N, those of the context one row or N. The model
    gets them as one group (`amstf.data.GROUP_INDEX`), as it does in training on grouped samples: it
    looks up and pools what is the user's once, and repeats vectors only where the two sides meet.

    Args:
        model: From a batch to [N, 1], or a dict of label -> [N, 1].
        schema: The fields of a batch.

    Returns:
        Name of the signature -> part; nothing if the schema lacks a side, as there is nothing to
        share then.
    """
    sides = {
        key: field.side
        for field in schema.inputs
        for key in (field.name, field.weight_name, embedding_name(field.name))
    }
    specs = input_specs(schema)
    of_ads = [key for key in specs if sides[key] == "ad"]
    if not of_ads or not any(sides[key] == "user" for key in specs):
        return {}

    def score_ads(inputs: Mapping[str, tf.Tensor]) -> dict[str, Any]:
        num_ads = tf.shape(inputs[of_ads[0]])[0]
        batch = {
            key: _for_each_ad(values, num_ads) if sides[key] == "context" else values
            for key, values in inputs.items()
        }
        batch[GROUP_INDEX] = tf.zeros([num_ads], tf.int64)
        predictions = model(batch, training=False)
        return named_outputs(predictions, schema, getattr(model, "labels", None))

    rows = {"user": 1, "ad": None, "context": None}
    inputs = {
        key: tf.TensorSpec([rows[sides[key]], *spec.shape[1:]], spec.dtype)
        for key, spec in specs.items()
    }
    return {SCORE_ADS: ServedPart(score_ads, inputs)}


def _for_each_ad(values: tf.Tensor, num_ads: tf.Tensor) -> tf.Tensor:
    """Returns values with N rows, of N rows or of one."""
    shape = tf.concat([[num_ads], tf.shape(values)[1:]], axis=0)
    return tf.ensure_shape(tf.broadcast_to(values, shape), [None, *values.shape[1:]])
