"""Regularisation of embeddings by how often an id occurs."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from amstf.errors import ConfigError, SchemaError
from amstf.schema import Field, Schema
from models import Dicm, Din, EmbeddingMlp, IdEmbedding, IdRegularization, build
from models.logistic_regression import LogisticRegression
from tests.helpers import CLICK_SCHEMA, random_batch, tensors

SCHEMA = Schema(
    (
        Field("ad", "sparse", side="ad", vocabulary_size=4, embedding_width=2),
        Field("seen", "sparse", side="user", is_list=True, vocabulary_size=4, embedding_width=2,
              table="ad"),
        Field("click", "label"),
    )
)  # fmt: skip
# Ad 0 occurs twice, 1 three times, 2 once, 3 never; 9 is unknown.
DATA = [
    {"ad": tf.constant([0, 1]), "seen": tf.constant([[1, 9], [-1, -1]])},
    {"ad": tf.constant([2]), "seen": tf.constant([[0, 1]])},
]
ROWS = np.array([[1, 0], [2, 0], [4, 0], [8, 0], [16, 0]], np.float32)


def layer_of(rule, data=DATA):
    layer = IdEmbedding(SCHEMA, embeddings_regularizer=rule)
    layer(DATA[0])
    layer.tables["ad"].set_weights([ROWS])
    layer.count(data)
    return layer


def batch(*ads):
    return {"ad": tf.constant(ads), "seen": tf.constant([[-1]] * len(ads))}


def test_l2_is_divided_by_occurrences():
    layer = layer_of(IdRegularization(l2=0.1))
    assert layer.occurrences["ad"].get_weights()[0].ravel().tolist() == [2, 3, 1, 0, 1]
    assert [w.name for w in layer.trainable_weights] == [layer.tables["ad"].embeddings.name]
    with tf.GradientTape() as tape:
        layer({"ad": tf.constant([1, 1]), "seen": tf.constant([[0, -1], [9, 1]])}, training=True)
        (loss,) = layer.losses
    # Ads 1 (n = 3), 0 (2) and the unknown one (1), each once.
    assert float(loss) == pytest.approx(0.1 * (4 / 3 + 1 / 2 + 256))
    gradient = tape.gradient(loss, layer.tables["ad"].embeddings)
    assert isinstance(gradient, tf.IndexedSlices)
    dense = tf.convert_to_tensor(gradient)
    np.testing.assert_allclose(dense[:, 0], [0.1, 0.1 * 4 / 3, 0, 0, 0.1 * 32], rtol=1e-6)
    layer(batch(1), training=False)
    assert layer.losses == []


def test_gate_scales_by_occurrences_in_its_fields():
    layer = layer_of(IdRegularization(gate=2.0))
    got = layer({"ad": tf.constant([0, 1, 3]), "seen": tf.constant([[1], [3], [-1]])})
    want = [[1 * 2 / 4, 0, 2, 0], [2 * 3 / 5, 0, 8, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(got, want, rtol=1e-6)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(layer(batch(0, 3)))
    gradient = tf.convert_to_tensor(tape.gradient(total, layer.tables["ad"].embeddings))
    np.testing.assert_allclose(gradient, [[0.5, 0.5], *[[0, 0]] * 4])
    both = layer_of(IdRegularization(gate=2.0, gate_fields=("ad", "seen")))
    got = both({"ad": tf.constant([0]), "seen": tf.constant([[3]])})
    np.testing.assert_allclose(got, [[0.5, 0, 0, 0]])


def test_dropout_trains_the_unknown_row_which_new_ids_take():
    layer = layer_of(IdRegularization(dropout=0.25))
    # The unknown one: once in `seen`, and a quarter of the three values of `ad`.
    counts = layer.occurrences["ad"].get_weights()[0].ravel()
    np.testing.assert_allclose(counts, [2, 3, 1, 0, 1.75])
    got = layer({"ad": tf.constant([0, 3, 9]), "seen": tf.constant([[3], [1], [-1]])})
    np.testing.assert_allclose(got[:, 0], [1, 16, 16])
    np.testing.assert_allclose(got[:, 2], [8, 2, 0])  # Not in other fields.
    tf.random.set_seed(5)
    many = batch(*[1] * 4000)
    with tf.GradientTape() as tape:
        values = layer(many, training=True)[:, 0]
        total = tf.reduce_sum(values)
    assert set(values.numpy()) == {2.0, 16.0}
    assert np.mean(values.numpy() == 16) == pytest.approx(0.25, abs=0.03)
    gradient = tf.convert_to_tensor(tape.gradient(total, layer.tables["ad"].embeddings))[:, 0]
    np.testing.assert_allclose(gradient, [0, (values.numpy() == 2).sum(), 0, 0,
                                          (values.numpy() == 16).sum()])  # fmt: skip
    assert set(layer(many).numpy()[:, 0]) == {2.0}


@pytest.mark.parametrize("make", [EmbeddingMlp, LogisticRegression, Din])
def test_models_save_load_and_continue_with_their_counts(make, tmp_path):
    rule = IdRegularization(0.01, 2.0, ("item", "liked", "words"), 0.2)
    data = tensors(random_batch(CLICK_SCHEMA, 12, 3))
    model = build(make(CLICK_SCHEMA, embeddings_regularizer=rule), CLICK_SCHEMA)
    model.id_embedding.count([data])
    model.compile("sgd", "binary_crossentropy")
    model.fit(data, np.arange(12) % 2, verbose=0)
    one = {key: value[:1] for key, value in data.items()}
    before = model(one)
    assert before.shape == (1, 1)
    counts = {k: v.get_weights()[0] for k, v in model.id_embedding.occurrences.items()}
    assert set(counts) == {"user", "item", "words"} and all(c.any() for c in counts.values())
    copy = build(make.from_config(model.get_config()), CLICK_SCHEMA)
    assert copy.id_embedding.embeddings_regularizer == rule
    tf.train.Checkpoint(model=model).write(str(tmp_path / "c"))
    status = tf.train.Checkpoint(model=copy).read(str(tmp_path / "c"))
    status.assert_existing_objects_matched()
    np.testing.assert_array_equal(copy(one), before)


@pytest.mark.filterwarnings("ignore:.*set_learning_phase:UserWarning")
def test_image_dropout_drops_all_images_of_a_sample_or_none():
    images = keras.Sequential([keras.layers.Lambda(lambda ids: 1 + tf.one_hot(ids, 4))])
    model = Dicm(CLICK_SCHEMA, image_embedding=images, image_dropout=0.5)
    data = tensors(random_batch(CLICK_SCHEMA, 400, 3))
    plain = model.join(data).numpy()
    width = model.id_embedding.width
    tf.random.set_seed(1)
    keras.backend.set_learning_phase(1)
    try:
        joined = model.join(data).numpy()
    finally:
        keras.backend.set_learning_phase(0)
    np.testing.assert_array_equal(joined[:, :width], plain[:, :width])
    dropped = ~joined[:, width:].any(axis=1)
    assert 0.4 < dropped.mean() < 0.6
    np.testing.assert_array_equal(joined[~dropped], plain[~dropped])  # Not scaled up.
    assert plain[:, width:].any(axis=1).all() and plain.shape[1] == width + 8
    copy = Dicm.from_config(model.get_config(), image_embedding=images)
    assert copy.image_dropout.rate == 0.5
    assert model(tensors(random_batch(CLICK_SCHEMA, 1, 2)), training=True).shape == (1, 1)


@pytest.mark.parametrize(
    ("rule", "error", "message"),
    [
        ({"dropout": 1.0}, ConfigError, "dropout is 1.0; wanted a number from 0 to below 1"),
        ({"l2": float("nan")}, ConfigError, "l2 is nan"),
        ({"gate": 1, "gate_fields": ("price",)}, SchemaError, "gate_fields is price; wanted a fie"),
        (
            {"dropout": 0.1, "dropout_fields": ("words",)},
            SchemaError,
            r"not hashed.*user, liked, i",
        ),
    ],
)
def test_wrong_arguments_are_named(rule, error, message):
    with pytest.raises(error, match=message):
        IdEmbedding(CLICK_SCHEMA, embeddings_regularizer=IdRegularization(**rule))
