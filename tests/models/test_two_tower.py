"""The two towers: numbers by hand, nothing but an inner product between them, many ads at once."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from amstf.errors import ConfigError, SchemaError
from amstf.schema import Field, Schema
from amstf.store import ImageStore, ImageStoreWriter
from models import IdEmbedding, InnerProduct, TwoTower, build, image_tower, input_specs
from tests.helpers import (
    CLICK_SCHEMA,
    assert_model_gradients_match,
    assert_weights_survive,
    ragged,
    random_batch,
    tensors,
)

FEATURES = np.random.default_rng(7).normal(size=(30, 5)).astype(np.float32)
USER = ("user", "liked", "words", "words.weight", "liked_images")
AD = ("item", "price", "image")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "images.h5"
    with ImageStoreWriter(path, width=5) as writer:
        writer.write(np.arange(30), FEATURES)
    return ImageStore.open(path)


def small(store, **arguments):
    arguments = {"hidden": (6, 4), "embedding_model": image_tower((4, 3)), **arguments}
    return TwoTower(CLICK_SCHEMA, store, **arguments)


def batch_of(size, length, seed=0):
    return tensors(random_batch(CLICK_SCHEMA, size, length, seed=seed))


def only(batch, names):
    return {name: batch[name] for name in names}


def test_by_hand():
    schema = Schema((
        Field("user", "sparse", side="user", vocabulary_size=2, embedding_width=2),
        Field("hour", "dense", side="context"),
        Field("item", "sparse", side="ad", vocabulary_size=2, embedding_width=2),
        Field("click", "label"),
    ))  # fmt: skip
    model = build(TwoTower(schema, hidden=(2,)), schema)
    tables = model.id_embedding.tables
    tables["user"].set_weights([np.array([[1.0, 2.0], [0.0, 1.0], [0.0, 0.0]])])
    tables["item"].set_weights([np.array([[3.0, 1.0], [-1.0, 0.0], [0.0, 0.0]])])
    model.user_tower.set_weights([np.array([[1.0, 0], [0, 1], [2, 0]]), np.array([0.0, -1.0])])
    model.ad_tower.set_weights([np.eye(2), np.array([0.5, 0.0])])
    model.match.set_weights([np.array([0.25])])
    batch = {
        "user": tf.constant([0, 1]),
        "hour": tf.constant([[3.0], [-2.0]]),
        "item": tf.constant([1, 0]),
    }
    # Users (1 + 6, 2 - 1) and (0 - 4, 1 - 1), ads (-1 + 0.5, 0) and (3 + 0.5, 1).
    np.testing.assert_allclose(model.user_embedding(batch), [[7, 1], [-4, 0]])
    np.testing.assert_allclose(model.ad_embedding(batch), [[-0.5, 0], [3.5, 1]])
    logits = np.array([[-3.5, 25.5], [2.0, -14.0]]) + 0.25
    users, ads = model.user_embedding(batch), model.ad_embedding(batch)
    np.testing.assert_allclose(model.score_ads(users, ads), 1 / (1 + np.exp(-logits)), rtol=1e-5)
    want = 1 / (1 + np.exp(-logits[[0, 1], [0, 1]]))
    np.testing.assert_allclose(model(batch)[:, 0], want, rtol=1e-5)


def test_each_tower_needs_and_sees_its_side_only(store):
    keras.utils.set_random_seed(1)
    model = small(store)
    batch, other = batch_of(5, 4), batch_of(5, 4, seed=1)
    model(batch)
    users, ads = model.user_embedding(only(batch, USER)), model.ad_embedding(only(batch, AD))
    assert users.shape == ads.shape == (5, 4)
    np.testing.assert_allclose(model.match(users, ads), model(batch), rtol=1e-6)
    mixed = {**other, **only(batch, AD)}
    np.testing.assert_allclose(
        model(mixed), model.match(model.user_embedding(other), ads), rtol=1e-6
    )
    for name in USER[:1] + USER[-1:]:
        changed = {**batch, name: other[name]}
        assert not np.allclose(model.user_embedding(changed), users, atol=1e-5), name
    for name in AD:
        changed = {**batch, name: other[name]}
        assert not np.allclose(model.ad_embedding(changed), ads, atol=1e-5), name


def test_scores_of_ten_thousand_ads_are_the_pairwise_predictions(store):
    keras.utils.set_random_seed(1)
    model = small(store, hidden=(16, 8))
    user, ads = batch_of(1, 6), batch_of(10_000, 0, seed=3)
    pairs = {name: tf.repeat(user[name], 10_000, axis=0) for name in USER}
    want = model({**pairs, **only(ads, AD)})[:, 0]
    got = model.score_ads(model.user_embedding(only(user, USER)), model.ad_embedding(ads))
    assert got.shape == (1, 10_000) and got.dtype == tf.float32
    np.testing.assert_allclose(got[0], want, atol=1e-6)
    assert np.ptp(want) > 0.01


def test_tables_and_images_are_asked_once_per_step(store):
    seen = []

    class Watched(keras.layers.Layer):
        def call(self, features):
            seen.append(features.shape[0])
            return features[:, :3]

    model = small(store, embedding_model=Watched())
    batch = batch_of(2, 2)
    model(batch)
    seen.clear()
    batch["image"] = tf.constant([3, 8], tf.int64)
    batch["liked_images"] = tf.constant([[3, 2], [8, 3]], tf.int64)
    model(batch)
    assert seen == [3]
    # `liked` of the user and `item` of the ad share a table.
    assert len(model.id_embedding.tables) == 3


@pytest.mark.parametrize("aggregator", ["sum", "max"])
@pytest.mark.parametrize(("batch_size", "length"), [(5, 4), (1, 3), (1, 0), (3, 0)])
def test_ragged_equals_padded_and_traced_equals_eager(store, aggregator, batch_size, length):
    keras.utils.set_random_seed(1)
    model = small(store, aggregator=aggregator)
    batch = random_batch(CLICK_SCHEMA, batch_size, length)
    want = model(tensors(batch))
    assert want.shape == (batch_size, 1) and want.dtype == tf.float32
    assert np.all(np.isfinite(want))
    traced = tf.function(model, input_signature=[input_specs(CLICK_SCHEMA)])
    np.testing.assert_allclose(traced(tensors(batch)), want, rtol=1e-5)
    np.testing.assert_allclose(model(ragged(CLICK_SCHEMA, batch)), want, rtol=1e-5)


def test_gradients(store):
    keras.utils.set_random_seed(2)
    ids = IdEmbedding(CLICK_SCHEMA, embeddings_initializer=keras.initializers.RandomNormal())
    model = small(store, id_embedding=ids)
    batch = batch_of(16, 4)
    assert_model_gradients_match(model, batch, samples=3)


def test_weights_and_config_survive(store, tmp_path):
    batch = batch_of(4, 3)
    assert_weights_survive(lambda: small(store), batch, str(tmp_path))
    model = small(store, aggregator="max", missing="zeros", dropout=0.1, name="prerank")
    model(batch)
    again = TwoTower.from_config(model.get_config())
    again(batch)
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again(batch), model(batch))
    assert again.get_config() == model.get_config()


@pytest.mark.parametrize(
    ("switches", "missing"),
    [
        ({"ad_image": False}, ["image"]),
        ({"behaviour_images": False}, ["liked_images"]),
        ({"ad_image": False, "behaviour_images": False}, ["image", "liked_images"]),
    ],
)
def test_images_can_be_switched_off(store, switches, missing):
    model = small(store if len(missing) == 1 else None, **switches)
    batch = batch_of(4, 3)
    assert model(batch).shape == (4, 1)
    less = {name: value for name, value in batch.items() if name not in missing}
    np.testing.assert_array_equal(model(less), model(batch))


def test_the_cross_entropy_finds_the_logits():
    match = InnerProduct()

    @tf.function
    def loss(users, ads):
        return keras.losses.BinaryCrossentropy()(tf.zeros([1, 1]), match(users, ads))

    assert float(loss(tf.constant([[80.0]]), tf.ones([1, 1]))) == pytest.approx(80.0)


def test_fit_learns_a_match_of_user_and_item():
    keras.utils.set_random_seed(4)
    batch = random_batch(CLICK_SCHEMA, 400, 4)
    labels = (batch["user"] % 2 == batch["item"] % 2).astype(np.float32)[:, None]
    data = tf.data.Dataset.from_tensor_slices((tensors(batch), labels)).batch(50)
    model = small(None, ad_image=False, behaviour_images=False)
    model.compile(keras.optimizers.Adam(0.03), "binary_crossentropy")
    losses = model.fit(data, epochs=25, verbose=0).history["loss"]
    assert losses[0] > 0.6 and losses[-1] < 0.15


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"aggregator": "attentive"}, ConfigError, "AttentivePooling asks by the ad, which a user"),
        ({"aggregator": "multi_query"}, ConfigError, "MultiQueryAttentivePooling asks by the ad"),
        ({"images": None}, ConfigError, "give images, an image store, or image_embedding"),
        (
            {"id_embedding": IdEmbedding(CLICK_SCHEMA, ["user"]), "ad_image": False},
            SchemaError,
            "the ad's tower has no input",
        ),
    ],
)
def test_bad_arguments_are_named(store, arguments, error, message):
    with pytest.raises(error, match=message):
        TwoTower(**{"schema": CLICK_SCHEMA, "images": store, **arguments})


def test_towers_of_different_widths_are_refused(store):
    model = small(store, user_tower=keras.layers.Dense(3))
    with pytest.raises(ConfigError, match="the user's tower gives 3 floats and the ad's 4; give b"):
        model(batch_of(2, 1))
