"""Logistic regression: numbers by hand, with and without images, gradients, saving."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from amstf.schema import Field, Schema
from models import IdWeights, LogisticRegression, build, input_specs
from tests.helpers import (
    CLICK_SCHEMA,
    assert_model_gradients_match,
    assert_weights_survive,
    ragged,
    random_batch,
    tensors,
)

SCHEMA = Schema(
    (
        Field("user", "sparse", vocabulary_size=2, embedding_width=5),
        Field("price", "dense", length=2),
        Field("tags", "weighted_sparse", is_list=True, vocabulary_size=3, combiner="sum"),
        Field("click", "label"),
    )
)
BATCH = {
    "user": tf.constant([0, 1]),
    "price": tf.constant([[1.0, 2.0], [0.0, 3.0]]),
    "tags": tf.constant([[0, 2], [-1, -1]]),
    "tags.weight": tf.constant([[0.5, 2.0], [0.0, 0.0]]),
}


def random_weights(model):
    rng = np.random.default_rng(5)
    model.set_weights([rng.normal(0, 0.3, size=w.shape) for w in model.get_weights()])
    return model


def test_by_hand():
    model = build(LogisticRegression(SCHEMA), SCHEMA)
    values = {
        "table_user": [[1.0], [-2.0], [0.0]],
        "table_tags": [[4.0], [0.0], [0.25], [0.0]],
        "kernel": [[2.0], [-1.0]],
        "bias": [0.5],
    }
    for weight in model.weights:
        (value,) = (value for part, value in values.items() if part in weight.name)
        weight.assign(value)
    # User 1 + tags (0.5 * 4 + 2 * 0.25) + price (2 - 2) + 0.5 = 4;  -2 + 0 - 3 + 0.5 = -4.5.
    got = model(BATCH).numpy()[:, 0]
    np.testing.assert_allclose(got, 1 / (1 + np.exp([-4.0, 4.5])), rtol=1e-6)


def test_ids_alone_have_one_weight_each_and_a_bias():
    schema = SCHEMA.without(["price", "tags"])
    model = build(LogisticRegression(schema), schema)
    assert [tuple(w.shape) for w in model.weights] == [(3, 1), (1,)]
    np.testing.assert_array_equal(model(BATCH), [[0.5], [0.5]])


def test_dense_fields_alone():
    schema = SCHEMA.without(["user", "tags"])
    model = build(LogisticRegression(schema), schema)
    for weight in model.weights:
        weight.assign([0.5] if "bias" in weight.name else [[2.0], [-1.0]])
    np.testing.assert_allclose(model(BATCH)[:, 0], 1 / (1 + np.exp([-0.5, 2.5])), rtol=1e-6)


def test_several_labels_have_weights_of_their_own():
    schema = Schema((*SCHEMA.fields, Field("buy", "label")))
    model = random_weights(build(LogisticRegression(schema), schema))
    outputs = model(BATCH)
    assert list(outputs) == ["click", "buy"]
    for column, label in enumerate(outputs):
        alone = build(LogisticRegression(schema, labels=[label]), schema)
        alone.set_weights([w[..., column : column + 1] for w in model.get_weights()])
        np.testing.assert_allclose(outputs[label], alone(BATCH), rtol=1e-6)


@pytest.mark.parametrize(("batch_size", "length"), [(5, 4), (1, 3), (1, 0), (3, 0)])
def test_ragged_equals_padded_and_traced_equals_eager(batch_size, length):
    model = random_weights(build(LogisticRegression(CLICK_SCHEMA), CLICK_SCHEMA))
    batch = random_batch(CLICK_SCHEMA, batch_size, length)
    traced = tf.function(model, input_signature=[input_specs(CLICK_SCHEMA)])
    want = model(tensors(batch))
    assert want.shape == (batch_size, 1) and want.dtype == tf.float32
    np.testing.assert_allclose(traced(tensors(batch)), want, rtol=1e-6)
    np.testing.assert_array_equal(model(ragged(CLICK_SCHEMA, batch)), want)


def test_gradients():
    model = build(LogisticRegression(CLICK_SCHEMA), CLICK_SCHEMA)
    batch = tensors(random_batch(CLICK_SCHEMA, 16, 4))
    assert_model_gradients_match(model, batch)


def test_weights_and_config_survive(tmp_path):
    batch = tensors(random_batch(CLICK_SCHEMA, 4, 3))

    def make():
        weights = IdWeights(CLICK_SCHEMA, embeddings_initializer="normal")
        return LogisticRegression(CLICK_SCHEMA, id_embedding=weights)

    assert_weights_survive(make, batch, str(tmp_path))
    model = random_weights(build(LogisticRegression(CLICK_SCHEMA, name="lr"), CLICK_SCHEMA))
    again = LogisticRegression.from_config(model.get_config())
    assert again.get_config() == model.get_config()
    again(batch)
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again(batch), model(batch))


def test_fit_learns_who_clicks():
    batch = random_batch(CLICK_SCHEMA, 256, 4)
    labels = (batch["user"] % 2).astype(np.float32)[:, None]
    data = tf.data.Dataset.from_tensor_slices((tensors(batch), labels)).batch(50)
    model = LogisticRegression(CLICK_SCHEMA)
    model.compile(keras.optimizers.Adam(0.1), "binary_crossentropy")
    losses = model.fit(data, epochs=12, verbose=0).history["loss"]
    assert losses[0] > 0.5 and losses[-1] < 0.1
