"""DICM: what it joins, one lookup for all images, and what becomes of users without images."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from amstf.errors import ConfigError, MissingImageError, SchemaError
from amstf.layers import AmsEmbedding
from amstf.schema import Field, Schema
from amstf.store import ImageStore, ImageStoreWriter
from models import AttentivePooling, Dicm, IdEmbedding, Mlp, build, image_tower, input_specs
from tests.helpers import (
    CLICK_SCHEMA,
    assert_model_gradients_match,
    assert_weights_survive,
    ragged,
    random_batch,
    tensors,
)

FEATURES = np.random.default_rng(7).normal(size=(30, 5)).astype(np.float32)


def write_store(path, ids=range(30), features=FEATURES):
    with ImageStoreWriter(path, width=features.shape[1]) as writer:
        writer.write(np.array(ids), features[: len(list(ids))])
    return ImageStore.open(path)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "images.h5")


def small(store, **arguments):
    arguments = {"hidden": (6,), "embedding_model": image_tower((4, 3)), **arguments}
    return Dicm(CLICK_SCHEMA, store, **arguments)


def batch_of(size, length, seed=0):
    return tensors(random_batch(CLICK_SCHEMA, size, length, seed=seed))


every_aggregator = pytest.mark.parametrize("aggregator", ["sum", "attentive", "multi_query"])
every_base = pytest.mark.parametrize("base", ["lr", "din"])


def test_joins_ids_ad_image_and_sum_of_behaviours_by_hand(store):
    # E picks two of the features, so that the joined vector can be written down.
    picks = keras.layers.Dense(2, use_bias=False)
    picks.build([None, 5])
    picks.set_weights([np.eye(5, 2)])
    model = small(store, embedding_model=picks)
    batch = batch_of(3, 4)
    batch["image"] = tf.constant([3, -1, 8], tf.int64)
    batch["liked_images"] = tf.constant([[1, 2, -1], [-1, -1, -1], [8, 8, 5]], tf.int64)
    f = FEATURES[:, :2]
    want = np.concatenate(
        [
            model.id_embedding(batch).numpy(),
            [f[3], [0, 0], f[8]],
            [f[1] + f[2], [0, 0], f[8] + f[8] + f[5]],
        ],
        axis=1,
    )
    np.testing.assert_allclose(model.join(batch), want, rtol=1e-5, atol=1e-6)


def test_all_images_of_a_step_are_embedded_in_one_call(store):
    seen = []

    class Watched(keras.layers.Layer):
        def call(self, features):
            seen.append(features.shape[0])
            return features[:, :3]

    model = small(store, embedding_model=Watched())
    batch = batch_of(3, 2)
    model(batch)
    seen.clear()
    batch["image"] = tf.constant([3, 3, 8], tf.int64)
    batch["liked_images"] = tf.constant([[3, 2], [-1, -1], [8, 3]], tf.int64)
    model(batch)
    assert seen == [3]  # 2, 3 and 8, once each


@every_aggregator
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


@every_aggregator
def test_order_and_padding_of_behaviours_have_no_influence(store, aggregator):
    keras.utils.set_random_seed(1)
    model = small(store, aggregator=aggregator)
    batch = random_batch(CLICK_SCHEMA, 6, 5)
    want = model(tensors(batch))
    changed = dict(batch)
    for name in ("liked", "liked_images"):
        changed[name] = np.pad(batch[name][:, ::-1], [(0, 0), (0, 3)], constant_values=-1)
    np.testing.assert_allclose(model(tensors(changed)), want, rtol=1e-5)
    other = dict(batch, liked_images=(batch["liked_images"] + 1) % 30)
    assert not np.allclose(model(tensors(other)), want, atol=1e-4)


@every_aggregator
def test_gradients_reach_every_weight(store, aggregator):
    keras.utils.set_random_seed(2)
    ids = IdEmbedding(CLICK_SCHEMA, embeddings_initializer=keras.initializers.RandomNormal())
    model = small(store, aggregator=aggregator, id_embedding=ids, mlp=Mlp((6,), "tanh"))
    batch = batch_of(16, 4)
    assert_model_gradients_match(model, batch, samples=3)


@every_base
def test_images_are_added_to_other_base_networks(store, base, tmp_path):
    keras.utils.set_random_seed(1)
    make = lambda: small(store, base=base, aggregator="attentive")  # noqa: E731
    model, batch = make(), random_batch(CLICK_SCHEMA, 5, 4)
    want = model(tensors(batch))
    assert want.shape == (5, 1) and np.all(np.isfinite(want))
    traced = tf.function(model, input_signature=[input_specs(CLICK_SCHEMA)])
    np.testing.assert_allclose(traced(tensors(batch)), want, rtol=1e-5)
    np.testing.assert_allclose(model(ragged(CLICK_SCHEMA, batch)), want, rtol=1e-5)
    for name in ("image", "liked_images"):
        other = dict(batch, **{name: (batch[name] + 1) % 30})
        assert not np.allclose(model(tensors(other)), want, atol=1e-5), name
    one = tensors(random_batch(CLICK_SCHEMA, 1, 0))
    assert model(one).shape == (1, 1) and np.all(np.isfinite(model(one)))
    again = Dicm.from_config(model.get_config())
    again(tensors(batch))
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again(tensors(batch)), want)
    assert again.get_config() == model.get_config()
    assert_weights_survive(make, tensors(batch), str(tmp_path))


@every_base
def test_gradients_of_other_base_networks(store, base):
    keras.utils.set_random_seed(2)
    model = small(store, base=base, aggregator="attentive")
    batch = batch_of(16, 4)
    assert_model_gradients_match(model, batch, samples=3)


def test_logistic_regression_with_images_by_hand(store):
    picks = keras.layers.Dense(2, use_bias=False)
    picks.build([None, 5])
    picks.set_weights([np.eye(5, 2)])
    model = small(store, embedding_model=picks, base="lr", behaviour_images=False)
    batch = batch_of(2, 3)
    batch["image"] = tf.constant([3, -1], tf.int64)
    batch["price"] = tf.constant([[1.0, 0.5], [2.0, 0.0]])
    model(batch)
    for table in model.id_embedding.tables.values():
        table.set_weights([np.zeros(table.embeddings.shape)])
    users = model.id_embedding.tables["user"]
    users.set_weights([np.arange(21, dtype=np.float32)[:, None] / 10])
    model.head.kernel.assign([[1.0], [2.0], [3.0], [-4.0]])
    model.head.bias.assign([0.25])
    user, f = batch["user"].numpy() / 10, FEATURES
    logits = [user[0] + 1 + 1 + 3 * f[3, 0] - 4 * f[3, 1] + 0.25, user[1] + 2 + 0.25]
    np.testing.assert_allclose(model(batch)[:, 0], 1 / (1 + np.exp(-np.array(logits))), rtol=1e-5)


def test_concat_takes_as_many_behaviours_as_the_schema_allows(store):
    fields = [
        dataclasses.replace(field, max_length=4) if field.name == "liked_images" else field
        for field in CLICK_SCHEMA.fields
    ]
    model = Dicm(Schema(tuple(fields)), store, image_tower((4, 3)), "concat", hidden=(6,))
    assert model.aggregator.length == 4
    assert model.join(batch_of(2, 3)).shape == (2, 11 + 3 + 4 * 3)
    with pytest.raises(ConfigError, match="'concat' needs to know how many behaviours to take"):
        small(store, aggregator="concat")


def test_default_embedding_model_is_256_64_12(store):
    model = build(Dicm(CLICK_SCHEMA, store), CLICK_SCHEMA)
    shapes = [tuple(w.shape) for w in model.image_embeddings["images"].trainable_weights]
    assert shapes == [(5, 256), (256,), (256,), (256, 64), (64,), (64,), (64, 12), (12,), (12,)]
    assert model.join(batch_of(2, 3)).shape == (2, 11 + 12 + 12)


def test_images_can_be_switched_off(store):
    batch = batch_of(4, 3)
    ad_only = small(store, behaviour_images=False)
    behaviours_only = small(store, ad_image=False)
    assert ad_only.join(batch).shape == behaviours_only.join(batch).shape == (4, 11 + 3)
    assert ad_only.aggregator is None
    without = {name: value for name, value in batch.items() if name != "liked_images"}
    np.testing.assert_array_equal(ad_only(without), ad_only(batch))


def test_attention_with_ad_ids_reaches_the_aggregator(store):
    class TakesAdIds(AttentivePooling):
        def aggregate(self, behaviours, mask, query, ad_ids):
            return ad_ids

    model = small(store, aggregator=TakesAdIds())
    batch = batch_of(4, 3)
    parts = model.id_embedding(batch, per_field=True)
    want = model.id_embedding.join(parts, side="ad")
    np.testing.assert_array_equal(model.join(batch)[:, -4:], want)


def test_two_stores_share_one_embedding_model(tmp_path):
    one = write_store(tmp_path / "one.h5")
    two = write_store(tmp_path / "two.h5", features=-FEATURES)
    fields = [
        Field("image", "image", side="ad", store="ads") if f.name == "image" else f
        for f in CLICK_SCHEMA.fields
    ]
    schema = Schema(tuple(fields))
    tower = image_tower((3,), "linear")
    model = Dicm(schema, {"ads": one, "images": two}, tower, hidden=(4,))
    batch = batch_of(2, 1)
    batch["image"] = tf.constant([4, 9], tf.int64)
    batch["liked_images"] = tf.constant([[4], [-1]], tf.int64)
    joined = model.join(batch).numpy()
    np.testing.assert_allclose(joined[0, 11:14], -joined[0, 14:17], rtol=1e-5)
    assert len(model.image_embeddings) == 2 and len(tower.weights) == 2
    model(batch)
    assert len([w for w in model.weights if w is tower.weights[0]]) == 1
    again = Dicm.from_config(model.get_config())
    again(batch)
    assert len(again.weights) == len(model.weights)
    with pytest.raises(ConfigError, match=r"images is one store and .* refer to ads, images"):
        Dicm(schema, one)
    with pytest.raises(ConfigError, match=r"images lacks ads, to which .*; it has images"):
        Dicm(schema, {"images": one})


@every_aggregator
def test_weights_and_checkpoints_survive(store, aggregator, tmp_path):
    assert_weights_survive(
        lambda: small(store, aggregator=aggregator),
        batch_of(4, 3),
        str(tmp_path),
    )


def test_config_round_trip(store):
    model = small(store, aggregator="attentive", missing="zeros", dropout=0.1, name="dicm")
    batch = batch_of(4, 3)
    model(batch)
    again = Dicm.from_config(model.get_config())
    again(batch)
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again(batch), model(batch))
    assert again.get_config() == model.get_config()
    layer = AmsEmbedding(store, image_tower((2,)))
    assert Dicm.from_config(model.get_config(), image_embedding=layer)(batch).shape == (4, 1)


def test_missing_images_follow_the_policy(tmp_path):
    few = write_store(tmp_path / "few.h5", ids=range(10))
    batch = batch_of(3, 2)
    batch["image"] = tf.constant([3, 25, -1], tf.int64)
    batch["liked_images"] = tf.constant([[3, 29], [-1, -1], [1, 2]], tf.int64)
    with pytest.raises((MissingImageError, tf.errors.NotFoundError), match=r"25|29"):
        small(few)(batch)
    lenient = small(few, missing="zeros")
    got = lenient(batch).numpy()
    batch["image"] = tf.constant([3, -1, -1], tf.int64)
    batch["liked_images"] = tf.constant([[3, -1], [-1, -1], [1, 2]], tf.int64)
    np.testing.assert_allclose(lenient(batch), got, rtol=1e-6)


def test_fit_learns_from_pixels_alone(store):
    keras.utils.set_random_seed(4)
    batch = random_batch(CLICK_SCHEMA, 300, 4, seed=3)
    for name in ("user", "item", "liked"):
        batch[name] = np.zeros_like(batch[name])
    labels = (FEATURES[batch["image"], 0] > 0).astype(np.float32)[:, None]
    data = tf.data.Dataset.from_tensor_slices((tensors(batch), labels)).batch(64)
    model = small(store, aggregator="attentive", embedding_model=image_tower((8, 4)))
    model.compile(keras.optimizers.Adam(0.02), "binary_crossentropy")
    losses = model.fit(data, epochs=15, verbose=0).history["loss"]
    assert losses[0] > 0.5 and losses[-1] < 0.2


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"aggregator": "median"}, ConfigError, "aggregator is 'median'; use one of 'sum', "),
        ({"aggregator": "attentive", "ad_image": False}, ConfigError, "asks by the ad's image"),
        (
            {"aggregator": "multi_query", "id_embedding": IdEmbedding(CLICK_SCHEMA, ["user"])},
            ConfigError,
            "MultiQueryAttentivePooling asks by the ad's ids and the schema has none",
        ),
        (
            {"base": "deep"},
            ConfigError,
            "base is 'deep'; use one of 'lr', 'mlp', 'din', 'deepfm', 'dcn'",
        ),
        ({"images": None}, ConfigError, "give images, an image store, or image_embedding"),
        ({"ad_image": "liked_images"}, SchemaError, "ad_image is 'liked_images', which is no sing"),
        ({"ad_image": False, "behaviour_images": False}, SchemaError, "Dicm has no image"),
        ({"missing": "ignore"}, ConfigError, "missing is 'ignore'"),
        ({"embedding_model": {"other": None}}, ConfigError, "embedding_model lacks images"),
    ],
)
def test_bad_arguments_are_named(store, arguments, error, message):
    with pytest.raises(error, match=message):
        Dicm(**{"schema": CLICK_SCHEMA, "images": store, **arguments})
