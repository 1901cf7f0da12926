"""The ID-only model, its variables, its configuration, training."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from amstf.schema import Field, Schema
from models import EmbeddingMlp, IdEmbedding, Mlp, build, input_specs
from tests.helpers import (
    CLICK_SCHEMA,
    assert_model_gradients_match,
    assert_weights_survive,
    ragged,
    random_batch,
    tensors,
)

SMALL = Schema(
    (Field("user", "sparse", vocabulary_size=2, embedding_width=2), Field("click", "label"))
)


def test_by_hand():
    model = build(EmbeddingMlp(SMALL, hidden=(1,)), SMALL)
    values = {
        "embeddings": [[1.0, 2.0], [3.0, -4.0], [0.0, 0.0]],
        "mlp/dense": [[1.0], [1.0]],
        "alpha": [0.5],
        "logit": [[2.0]],
    }
    for weight in model.weights:
        for part, value in values.items():
            if part in weight.name and "bias" not in weight.name:
                weight.assign(value)
    # Row 0: 1 + 2 = 3 -> 3 -> logit 6.  Row 1: 3 - 4 = -1 -> -0.5 -> logit -1.  Unknown: 0.
    got = model({"user": tf.constant([0, 1, 9], tf.int64)}).numpy()
    np.testing.assert_allclose(got[:, 0], 1 / (1 + np.exp([-6.0, 1.0, 0.0])), rtol=1e-6)


@pytest.mark.parametrize(("batch_size", "length"), [(5, 4), (1, 3), (1, 0), (3, 0)])
def test_ragged_equals_padded_and_traced_equals_eager(batch_size, length):
    keras.utils.set_random_seed(1)
    model = EmbeddingMlp(CLICK_SCHEMA, hidden=(6, 3))
    batch = random_batch(CLICK_SCHEMA, batch_size, length)
    traced = tf.function(model, input_signature=[input_specs(CLICK_SCHEMA)])
    want = model(tensors(batch))
    assert want.shape == (batch_size, 1) and want.dtype == tf.float32
    np.testing.assert_allclose(traced(tensors(batch)), want, rtol=1e-6)
    np.testing.assert_array_equal(model(ragged(CLICK_SCHEMA, batch)), want)


def test_gradients():
    keras.utils.set_random_seed(2)
    table = IdEmbedding(CLICK_SCHEMA, embeddings_initializer=keras.initializers.RandomNormal())
    model = EmbeddingMlp(CLICK_SCHEMA, hidden=(8, 4), id_embedding=table)
    batch = tensors(random_batch(CLICK_SCHEMA, 16, 4))
    assert_model_gradients_match(model, batch)


def test_build_makes_all_variables_and_runs_nothing():
    model = EmbeddingMlp(CLICK_SCHEMA)
    assert model.weights == []
    build(model, CLICK_SCHEMA)
    built = len(model.weights)
    model(tensors(random_batch(CLICK_SCHEMA, 3, 2)))
    assert len(model.weights) == built == 3 + 2 * 3 + 2
    assert model.count_params() > 0 and all(layer.built for layer in model.layers)


def test_weights_and_checkpoints_survive(tmp_path):
    batch = tensors(random_batch(CLICK_SCHEMA, 4, 3))
    assert_weights_survive(lambda: EmbeddingMlp(CLICK_SCHEMA, (5,)), batch, str(tmp_path))


def test_saved_model_survives(tmp_path):
    model = build(EmbeddingMlp(CLICK_SCHEMA, (5,)), CLICK_SCHEMA)
    model.save(tmp_path / "model", save_format="tf")
    served = tf.saved_model.load(str(tmp_path / "model"))
    for size, length in ((1, 0), (4, 3)):
        batch = tensors(random_batch(CLICK_SCHEMA, size, length))
        np.testing.assert_allclose(served(batch), model(batch), rtol=1e-6)


def test_config_round_trip():
    model = EmbeddingMlp(CLICK_SCHEMA, (5,), 0.1, activation="relu", name="baseline")
    again = EmbeddingMlp.from_config(model.get_config())
    assert again.get_config() == model.get_config()
    batch = tensors(random_batch(CLICK_SCHEMA, 4, 3))
    model(batch), again(batch)
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again(batch), model(batch))


def test_parts_can_be_passed_in():
    ids = IdEmbedding(SMALL)
    model = EmbeddingMlp(SMALL, id_embedding=ids, mlp=Mlp(()), head=keras.layers.Dense(1))
    build(model, SMALL)
    assert model.id_embedding is ids
    # Logistic regression on the embeddings: a table, one kernel and one bias.
    assert [tuple(w.shape) for w in model.weights] == [(3, 2), (2, 1), (1,)]


def test_dropout_and_regularizer_are_on_in_training_only():
    model = EmbeddingMlp(CLICK_SCHEMA, (64,), 0.5, embeddings_regularizer="l2")
    batch = tensors(random_batch(CLICK_SCHEMA, 4, 3))
    np.testing.assert_array_equal(model(batch), model(batch, training=False))
    assert model.losses == []
    want = model(batch)
    assert not np.allclose(model(batch, training=True), want, atol=1e-5)
    assert len(model.losses) == len(model.id_embedding.tables) == 3


def test_fit_learns_who_clicks():
    keras.utils.set_random_seed(4)
    batch = random_batch(CLICK_SCHEMA, 256, 4)
    labels = (batch["user"] % 2).astype(np.float32)[:, None]
    data = tf.data.Dataset.from_tensor_slices((tensors(batch), labels)).batch(50)
    model = EmbeddingMlp(CLICK_SCHEMA, (8,))
    model.compile(keras.optimizers.Adam(0.03), "binary_crossentropy", metrics=["AUC"])
    history = model.fit(data, epochs=12, verbose=0).history
    assert history["loss"][0] > 0.6
    assert history["loss"][-1] < 0.1 and history["auc"][-1] > 0.99
