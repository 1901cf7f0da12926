"""Heads: one label and several, by hand, in training, saved, with each base network."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from amstf.errors import SchemaError
from amstf.schema import Field, Schema
from models import (
    Din,
    EmbeddingMlp,
    LabelHeads,
    LogisticRegression,
    TwoTower,
    build,
    input_specs,
)
from tests.helpers import (
    CLICK_SCHEMA,
    assert_gradients_match,
    ragged,
    random_batch,
    tensors,
)

SCHEMA = Schema((*CLICK_SCHEMA.fields, Field("buy", "label")))
every_model = pytest.mark.parametrize("make", [LogisticRegression, EmbeddingMlp, Din])


def targets_of(batch):
    clicks = (batch["user"] % 2).astype(np.float32)[:, None]
    return {"click": clicks, "buy": clicks * (batch["item"] % 2)[:, None].astype(np.float32)}


def test_by_hand():
    heads = LabelHeads(["click", "buy"])
    heads(tf.zeros([1, 2]))
    heads.set_weights([
        np.array([[1.0], [2.0]]), np.array([-1.0]), np.array([[0.0], [-3.0]]), np.array([0.5]),
    ])  # fmt: skip
    got = heads(tf.constant([[1.0, 1.0], [0.0, 1.0]]))
    assert list(got) == ["click", "buy"]
    for label, logits in (("click", [[2.0], [1.0]]), ("buy", [[-2.5], [-2.5]])):
        np.testing.assert_allclose(got[label], 1 / (1 + np.exp(-np.array(logits))), rtol=1e-6)
        assert got[label].dtype == tf.float32


@every_model
def test_the_schema_says_what_is_predicted(make):
    batch = tensors(random_batch(SCHEMA, 3, 2))
    outputs = make(SCHEMA)(batch)
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        "click": (3, 1), "buy": (3, 1),
    }  # fmt: skip
    assert make(SCHEMA, labels=["buy"])(batch).shape == (3, 1)
    assert make(CLICK_SCHEMA)(batch).shape == (3, 1)


@every_model
def test_training_sums_the_losses_and_has_metrics_of_each_label(make):
    keras.utils.set_random_seed(4)
    batch = random_batch(SCHEMA, 256, 4)
    data = tf.data.Dataset.from_tensor_slices((tensors(batch), targets_of(batch))).batch(50)
    model = make(SCHEMA)
    model.compile(
        keras.optimizers.Adam(0.05), "binary_crossentropy", metrics={"buy": ["AUC"], "click": []}
    )
    history = model.fit(data, epochs=12, verbose=0).history
    np.testing.assert_allclose(
        history["loss"], np.add(history["click_loss"], history["buy_loss"]), rtol=1e-5
    )
    assert history["loss"][0] > 0.8 and history["loss"][-1] < 0.4
    assert history["buy_auc"][-1] > 0.95
    predictions = model.predict(tensors(batch), verbose=0, batch_size=100)
    assert predictions["click"].shape == predictions["buy"].shape == (256, 1)
    for label, want in targets_of(batch).items():
        assert np.mean((predictions[label] > 0.5) == want) > 0.9


@every_model
def test_shapes_gradients_and_saving(make, tmp_path):
    keras.utils.set_random_seed(2)
    model, batch = make(SCHEMA, name="tasks"), random_batch(SCHEMA, 16, 4)
    traced = tf.function(model, input_signature=[input_specs(SCHEMA)])
    want = model(tensors(batch))
    for inputs, run in ((tensors(batch), traced), (ragged(SCHEMA, batch), model)):
        got = run(inputs)
        for label in want:
            np.testing.assert_allclose(got[label], want[label], rtol=1e-5)
    one = model(tensors(random_batch(SCHEMA, 1, 0)))
    assert all(np.all(np.isfinite(value)) for value in one.values())
    targets = targets_of(batch)

    def loss():
        outputs = model(tensors(batch))
        entropy = keras.losses.BinaryCrossentropy()
        return 5 * sum(entropy(targets[label], outputs[label]) for label in outputs)

    heads = model.head.trainable_variables
    assert_gradients_match(loss, heads)
    again = type(model).from_config(model.get_config())
    assert again.get_config() == model.get_config()
    build(again, SCHEMA)
    path = tf.train.Checkpoint(model=model).save(str(tmp_path / "checkpoint"))
    tf.train.Checkpoint(model=again).restore(path).assert_consumed()
    want = model(tensors(batch))
    for label, values in again(tensors(batch)).items():
        np.testing.assert_array_equal(values, want[label])


def test_two_towers_predict_the_first_label():
    model = TwoTower(SCHEMA, ad_image=False, behaviour_images=False)
    assert model.labels == ("click",)
    assert model(tensors(random_batch(SCHEMA, 3, 2))).shape == (3, 1)


def test_cross_entropy_finds_the_logits_of_each_label():
    heads = LabelHeads(["a", "b"])
    heads(tf.zeros([1, 1]))
    heads.set_weights([np.array([[1.0]]), np.zeros(1), np.array([[2.0]]), np.zeros(1)])

    class Heads(keras.Model):
        def call(self, inputs):
            return heads(inputs)

    model = Heads()
    model.compile("sgd", "binary_crossentropy")
    zeros = np.zeros([1, 1], np.float32)
    losses = model.evaluate(
        np.full([1, 1], 40.0), {"a": zeros, "b": zeros}, verbose=0, return_dict=True
    )
    # From probabilities alone each would stop growing at -log(1e-7) = 16.1.
    assert losses["a_loss"] == pytest.approx(40.0) and losses["b_loss"] == pytest.approx(80.0)


@pytest.mark.parametrize("labels", ["click", [], ["click", "like"]])
def test_labels_that_are_not_there_are_named(labels):
    with pytest.raises(SchemaError, match=r"labels is .*; give some of the schema's, click, buy"):
        EmbeddingMlp(SCHEMA, labels=labels)
