"""Models of several feature stores: an E, a query and an aggregator for each."""

import functools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from amstf.errors import ConfigError, SchemaError
from amstf.schema import Field, Schema
from amstf.store import ImageStore, ImageStoreWriter
from models import (
    AttentivePooling,
    Dicm,
    IdEmbedding,
    Mlp,
    SumPooling,
    TwoTower,
    build,
    image_tower,
    input_specs,
)
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
        *CLICK_SCHEMA.fields,
        Field("title", "image", side="ad", store="titles"),
        Field("liked_titles", "image", side="user", is_list=True, store="titles"),
    )
)
FEATURES = {
    name: np.random.default_rng(k).normal(size=(30, width)).astype(np.float32)
    for k, (name, width) in enumerate([("images", 5), ("titles", 4)])
}
TOWER = functools.partial(image_tower, (4, 3))


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    found = {}
    for name, features in FEATURES.items():
        path = tmp_path_factory.mktemp("stores") / f"{name}.h5"
        with ImageStoreWriter(path, features.shape[1]) as writer:
            writer.write(np.arange(30), features)
        found[name] = ImageStore.open(path)
    return found


def small(stores, **arguments):
    return Dicm(SCHEMA, stores, **{"hidden": (6,), "embedding_model": TOWER, **arguments})


def batch_of(size, length):
    return tensors(random_batch(SCHEMA, size, length))


def picks(width, scale):
    """An E that takes the first two features, times a number."""
    layer = keras.layers.Dense(2, use_bias=False)
    layer.build([None, width])
    layer.set_weights([scale * np.eye(width, 2)])
    return layer


def test_joins_every_store_by_hand(stores):
    model = small(stores, embedding_model={"images": picks(5, 1), "titles": picks(4, 10)})
    batch = batch_of(2, 2)
    batch["image"] = tf.constant([3, -1], tf.int64)
    batch["title"] = tf.constant([4, 5], tf.int64)
    batch["liked_images"] = tf.constant([[1, 2], [-1, -1]], tf.int64)
    batch["liked_titles"] = tf.constant([[7, -1], [8, 9]], tf.int64)
    f, g = FEATURES["images"][:, :2], 10 * FEATURES["titles"][:, :2]
    zero = np.zeros(2)
    want = [[*f[3], *g[4], *(f[1] + f[2]), *g[7]], [*zero, *g[5], *zero, *(g[8] + g[9])]]
    want = np.concatenate([model.id_embedding(batch), want], axis=1)
    np.testing.assert_allclose(model.join(batch), want, rtol=1e-5, atol=1e-6)
    assert model.image_embeddings.keys() == {"images", "titles"}
    assert [field.name for field in model.ad_images] == ["image", "title"]


def test_each_list_is_asked_by_the_ad_image_of_its_store(stores):
    @keras.utils.register_keras_serializable("test_several_stores")
    class Query(AttentivePooling):
        def aggregate(self, behaviours, mask, query, ad_ids):
            return query

    model = small(stores, aggregator=Query())
    images, titles = tf.split(model.join(batch_of(4, 3))[:, 11:], 2, axis=1)
    np.testing.assert_array_equal(images, titles)  # The ad's two embeddings, and both again.
    assert np.any(images[:, :3] != images[:, 3:])
    first, second = model.aggregators.values()
    assert first is not second and type(second) is Query


def test_each_store_is_asked_once_for_all_its_fields(stores):
    calls = []

    class Watched(keras.layers.Layer):
        def call(self, features):
            calls.append(tuple(features.shape))
            return features[:, :3]

    model = small(stores, embedding_model=lambda name: Watched(name=name))
    batch = batch_of(2, 2)
    model(batch)
    calls.clear()
    for name in ("image", "title"):
        batch[name] = tf.constant([3, 8], tf.int64)
    batch["liked_images"] = batch["liked_titles"] = tf.constant([[3, 2], [-1, -1]], tf.int64)
    model(batch)
    assert calls == [(3, 5), (3, 4)]


@pytest.mark.parametrize("base", ["mlp", "lr", "din"])
def test_other_forms_of_a_batch_and_round_trips(stores, base, tmp_path):
    keras.utils.set_random_seed(1)
    make = lambda: small(stores, base=base, aggregator="attentive")  # noqa: E731
    model, batch = make(), random_batch(SCHEMA, 5, 3)
    want = model(tensors(batch))
    traced = tf.function(model, input_signature=[input_specs(SCHEMA)])
    np.testing.assert_allclose(traced(tensors(batch)), want, rtol=1e-5)
    np.testing.assert_allclose(model(ragged(SCHEMA, batch)), want, rtol=1e-5)
    for name in ("title", "liked_titles"):
        other = dict(batch, **{name: (batch[name] + 1) % 30})
        assert not np.allclose(model(tensors(other)), want, atol=1e-5), name
    one = model(batch_of(1, 0))
    assert one.shape == (1, 1) and np.all(np.isfinite(one))
    again = Dicm.from_config(model.get_config())
    again(tensors(batch))
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again(tensors(batch)), want)
    assert again.get_config() == model.get_config()
    assert_weights_survive(make, tensors(batch), str(tmp_path))


def test_gradients_reach_every_weight(stores):
    keras.utils.set_random_seed(2)
    ids = IdEmbedding(SCHEMA, embeddings_initializer=keras.initializers.RandomNormal())
    model = small(stores, aggregator="multi_query", id_embedding=ids, mlp=Mlp((6,), "tanh"))
    batch = batch_of(16, 3)
    assert_model_gradients_match(model, batch, samples=2)


def test_two_towers(stores, tmp_path):
    make = lambda: TwoTower(SCHEMA, stores, TOWER, hidden=(6, 4))  # noqa: E731
    model, batch = build(make(), SCHEMA), batch_of(3, 2)
    got = model.score_ads(model.user_embedding(batch), model.ad_embedding(batch))
    np.testing.assert_allclose(np.diag(got), model(batch)[:, 0], rtol=1e-5)
    again = TwoTower.from_config(model.get_config())
    assert again(batch).shape == (3, 1) and again.get_config() == model.get_config()
    assert "liked_titles" in model.served_parts()["user_embedding"].inputs
    assert_weights_survive(make, batch, str(tmp_path))


def test_which_stores_have_an_e_of_their_own(stores):
    by_default = build(Dicm(SCHEMA, stores), SCHEMA)
    one, two = (layer.embedding_model for layer in by_default.image_embeddings.values())
    assert (one.input_shape[-1], two.input_shape[-1]) == (5, 4) and one.name == "image_tower_images"
    # Not two kinds of content, but images of one kind in two stores.
    fields = [f for f in SCHEMA.fields if f.name not in ("title", "liked_images")]
    two_places = Schema(tuple(f for f in fields if f.source != "liked_images"))
    same = {"images": stores["images"], "titles": stores["images"]}
    shared = build(Dicm(two_places, same), two_places)
    assert len({id(layer.embedding_model) for layer in shared.image_embeddings.values()}) == 1
    apart = build(Dicm(two_places, stores), two_places)
    assert len({id(layer.embedding_model) for layer in apart.image_embeddings.values()}) == 2
    with pytest.raises(ConfigError, match=r"stores differ .* \(images 5, titles 4\); give a dict"):
        Dicm(SCHEMA, stores, image_tower((4, 3)))


def test_fields_and_aggregators_by_name(stores):
    pooling = {"liked_images": "max", "liked_titles": SumPooling()}
    model = small(stores, ad_image="title", aggregator=pooling)
    assert [field.name for field in model.ad_images] == ["title"]
    assert [type(a).__name__ for a in model.aggregators.values()] == ["MaxPooling", "SumPooling"]
    again = Dicm.from_config(model.get_config())
    assert again.get_config() == model.get_config()
    only_images = small(
        {"images": stores["images"]}, ad_image=["image"], behaviour_images=["liked_images"]
    )
    assert only_images.join(batch_of(2, 1)).shape == (2, 11 + 3 + 3)
    with pytest.raises(ConfigError, match="aggregator lacks liked_titles; give one for each"):
        small(stores, aggregator={"liked_images": "max"})
    with pytest.raises(SchemaError, match="ad_image is 'liked_titles', which is no single image"):
        small(stores, ad_image=["image", "liked_titles"])


def test_a_model_of_one_store_has_the_checkpoint_that_it_always_had(stores, tmp_path):
    model = build(
        Dicm(CLICK_SCHEMA, stores["images"], TOWER, "attentive", hidden=(6,)), CLICK_SCHEMA
    )
    path = tf.train.Checkpoint(model=model).save(str(tmp_path / "checkpoint"))
    end = "/.ATTRIBUTES/VARIABLE_VALUE"
    names = [name.removesuffix(end) for name, _ in tf.train.list_variables(path)]
    tower = "model/image_embeddings/images/embedding_model/layer_with_weights-"
    # As version 0.1 wrote them.
    assert [name for name in names if "aggregator" in name or "image" in name] == [
        "model/aggregator/_mlp/_steps/0/bias",
        "model/aggregator/_mlp/_steps/0/kernel",
        "model/aggregator/_mlp/_steps/1/alpha",
        "model/aggregator/_score/bias",
        "model/aggregator/_score/kernel",
        *(f"{tower}{k}" for k in ("0/bias", "0/kernel", "1/alpha", "2/bias", "2/kernel")),
        f"{tower}3/alpha",
    ]
    config = model.get_config()
    assert (config["ad_image"], config["behaviour_images"]) == ("image", "liked_images")
    assert config["aggregator"]["class_name"] == "AttentivePooling"
    assert config["embedding_model"]["config"]["name"] == "image_tower"
