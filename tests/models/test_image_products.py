"""The product of the ad's image and the aggregated behaviours, beside both."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from amstf.errors import ConfigError
from models import Dicm, MultiQueryAttentivePooling, build
from tests.helpers import CLICK_SCHEMA, assert_gradients_match, random_batch, tensors


def of_ids():
    """Stands for E over a store: image i is [1 + i, i, 2]."""

    def embed(ids):
        ids = tf.cast(ids, tf.float32)
        return tf.stack([1 + ids, ids, 2 * tf.ones_like(ids)], axis=-1)

    return keras.Sequential([keras.layers.Lambda(embed)])


def make(**arguments):
    common = {"hidden": (4,), "activation": "tanh", "image_products": True}
    model = Dicm(CLICK_SCHEMA, image_embedding=of_ids(), **{**common, **arguments})
    return build(model, CLICK_SCHEMA)


def test_by_hand():
    model = make(aggregator="mean")
    batch = tensors(random_batch(CLICK_SCHEMA, 2, 2))
    batch["image"] = tf.constant([3, 1], tf.int64)
    batch["liked_images"] = tf.constant([[0, 2], [-1, -1]], tf.int64)
    got = model.join(batch).numpy()[:, model.id_embedding.width :]
    # Image, mean of images 0 and 2, product; nobody's behaviours are zeros, and so is the product.
    np.testing.assert_allclose(got[0], [4, 3, 2, 2, 1, 2, 8, 3, 4])
    np.testing.assert_allclose(got[1], [2, 1, 2, 0, 0, 0, 0, 0, 0])


def test_each_channel_of_multi_query_is_multiplied():
    model = make(aggregator="multi_query")
    joined = model.join(tensors(random_batch(CLICK_SCHEMA, 3, 2))).numpy()
    image, pooled, products = np.split(joined[:, model.id_embedding.width :], [3, 9], axis=1)
    np.testing.assert_allclose(products, np.tile(image, 2) * pooled, rtol=1e-6)


def test_unit_images_by_hand():
    model = make(aggregator="mean", unit_images=True)
    batch = tensors(random_batch(CLICK_SCHEMA, 2, 2))
    batch["image"] = tf.constant([3, 1], tf.int64)
    batch["liked_images"] = tf.constant([[0, 2], [-1, -1]], tf.int64)
    got = model.join(batch).numpy()[:, model.id_embedding.width :]
    ad, liked = np.array([4, 3, 2]) / np.sqrt(29), np.array([2, 1, 2]) / 3
    np.testing.assert_allclose(got[0], [*ad, *liked, *np.sqrt(3) * ad * liked], rtol=1e-6)
    np.testing.assert_allclose(got[1], [*np.array([2, 1, 2]) / 3, *np.zeros(6)], rtol=1e-6)
    alone = make(aggregator="mean", unit_images=True, image_products=False)
    np.testing.assert_array_equal(
        alone.join(batch)[:, alone.id_embedding.width :], got[:, : 2 * len(ad)]
    )


def test_each_query_of_multi_query_has_length_one():
    model = make(aggregator="multi_query", unit_images=True)
    joined = model.join(tensors(random_batch(CLICK_SCHEMA, 3, 2))).numpy()
    channels = joined[:, model.id_embedding.width + 3 :][:, :6].reshape(3, 2, 3)
    lengths = np.linalg.norm(channels, axis=2)
    np.testing.assert_allclose(lengths[lengths > 0], 1, rtol=1e-6)
    assert (lengths > 0).any()


@pytest.mark.parametrize("unit_images", [False, True])
def test_gradients_config_and_batch_of_one(unit_images):
    model = make(aggregator="attentive", unit_images=unit_images)
    batch = tensors(random_batch(CLICK_SCHEMA, 1, 2))
    assert model(batch).shape == (1, 1)
    copy = build(Dicm.from_config(model.get_config(), image_embedding=of_ids()), CLICK_SCHEMA)
    assert copy.image_products and copy.unit_images == unit_images
    copy.set_weights(model.get_weights())
    np.testing.assert_array_equal(copy(batch), model(batch))
    variables = [v for v in model.trainable_variables if "table" not in v.name]
    batch = tensors(random_batch(CLICK_SCHEMA, 4, 3))
    # Products of small numbers, which do not leave the sigmoid's slope.
    for name in ("image", "liked_images"):
        batch[name] = tf.where(batch[name] < 0, batch[name], batch[name] % 2)
    assert_gradients_match(lambda: tf.reduce_sum(model(batch)), variables)


def test_what_cannot_be_multiplied_is_refused():
    with pytest.raises(ConfigError, match="image_products multiplies the ad's image with those"):
        make(ad_image=False)
    wide = keras.layers.Lambda(lambda ids: tf.one_hot(ids, 4))
    model = Dicm(
        CLICK_SCHEMA,
        image_embedding=keras.Sequential([wide]),
        aggregator=_Five(),
        image_products=True,
    )
    with pytest.raises(ConfigError, match="has 4 floats and the aggregated behaviours 5"):
        model.join(tensors(random_batch(CLICK_SCHEMA, 2, 2)))

    alone = Dicm(
        CLICK_SCHEMA,
        image_embedding=keras.Sequential([wide]),
        aggregator=_Five(),
        unit_images=True,
    )
    with pytest.raises(ConfigError, match="have 4 floats and their aggregate 5"):
        alone.join(tensors(random_batch(CLICK_SCHEMA, 2, 2)))


class _Five(MultiQueryAttentivePooling):
    def aggregate(self, behaviours, mask, query, ad_ids):
        return tf.zeros([tf.shape(behaviours)[0], 5])
