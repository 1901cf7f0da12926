import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from amstf.errors import ConfigError
from amstf.layers import AmsEmbedding
from amstf.store import ImageStore, ImageStoreWriter
from tests.helpers import assert_gradients_match

WIDTH = 5


@pytest.fixture
def features():
    return np.random.default_rng(0).normal(size=(30, WIDTH)).astype("f4")


@pytest.fixture
def store(tmp_path, features):
    """Image i has the row i of `features`."""
    with ImageStoreWriter(tmp_path / "i.h5", WIDTH) as writer:
        writer.write(np.arange(30), features)
    return ImageStore.open(tmp_path / "i.h5")


def make_tower(depth=3):
    return keras.Sequential(
        [
            keras.layers.Dense(4, activation="tanh"),
            keras.layers.PReLU(alpha_initializer="ones"),
            keras.layers.Dense(depth),
        ]
    )


def by_hand(tower, features, ids):
    """Plain Keras: features gathered by hand."""
    ids = np.asarray(ids)
    embedded = tower(tf.constant(features[np.maximum(ids, 0).ravel()]))
    masked = embedded * tf.constant((ids.ravel() >= 0).astype("f4")[:, None])
    return tf.reshape(masked, [*ids.shape, embedded.shape[-1]])


def test_values_computed_by_hand(tmp_path):
    with ImageStoreWriter(tmp_path / "i.h5", 2) as writer:
        writer.write([7, 3], [[1.0, 2.0], [3.0, 4.0]])
    tower = keras.layers.Dense(1)
    layer = AmsEmbedding(ImageStore.open(tmp_path / "i.h5"), tower)
    layer.build([None])
    tower.set_weights([np.array([[10.0], [1.0]]), np.array([0.5])])
    output = layer(tf.constant([[3, -1, 7], [7, 7, 3]], tf.int64))
    assert output.numpy()[..., 0].tolist() == [[34.5, 0.0, 12.5], [12.5, 12.5, 34.5]]


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("shape", [(), (1,), (8,), (0,), (4, 6), (3, 0), (0, 5), (2, 3, 4)])
def test_any_shape_agrees_with_plain_keras(store, features, shape, traced):
    layer = AmsEmbedding(store, make_tower())
    ids = np.random.default_rng(1).integers(-2, 30, shape)
    call = tf.function(layer) if traced else layer
    output = call(tf.constant(ids, tf.int64))
    assert output.shape == (*shape, 3) and output.dtype == tf.float32
    np.testing.assert_allclose(
        output, by_hand(layer.embedding_model, features, ids), rtol=1e-5, atol=1e-6
    )


def test_the_static_shape_is_known(store):
    layer = AmsEmbedding(store, make_tower())
    seen = []

    @tf.function(input_signature=[tf.TensorSpec([None, None, 2], tf.int64)])
    def call(ids):
        output = layer(ids)
        seen.append(output.shape.as_list())
        return output

    call(tf.zeros([3, 1, 2], tf.int64))
    assert set(map(tuple, seen)) == {(None, None, 2, 3)}


@pytest.mark.parametrize("missing", ["error", "zeros", "learn"])
@pytest.mark.parametrize("shape", [(1, 1), (7, 4), (0, 4)])
def test_gradients_agree_with_plain_keras(store, features, shape, missing):
    layer = AmsEmbedding(store, make_tower(), missing)
    ids = np.random.default_rng(2).integers(-1, 12, shape)
    weights = tf.constant(np.random.default_rng(3).normal(size=(*shape, 3)).astype("f4"))
    layer(tf.constant(ids))
    variables = layer.trainable_variables
    assert len(variables) == 5 + (missing == "learn")

    def gradients(embed):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(weights * tf.sin(embed()))
        return tape.gradient(loss, variables, unconnected_gradients="zero")

    wanted = gradients(lambda: by_hand(layer.embedding_model, features, ids))
    for got, want in zip(gradients(lambda: layer(tf.constant(ids))), wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_gradients_agree_with_differences(store):
    layer = AmsEmbedding(store, make_tower())
    ids = tf.constant([[3, 4, -1, 3], [29, 0, 0, 7]], tf.int64)
    layer(ids)
    assert_gradients_match(
        lambda: tf.reduce_sum(tf.sin(layer(ids)) * tf.constant([1.0, 2.0, -0.5])),
        layer.trainable_variables,
    )


def test_ragged_ids(store, features):
    layer = AmsEmbedding(store, make_tower())
    ids = tf.ragged.constant([[3, -1, 5], [], [3]], dtype=tf.int64)
    output = layer(ids)
    assert isinstance(output, tf.RaggedTensor) and output.row_lengths().numpy().tolist() == [
        3,
        0,
        1,
    ]
    np.testing.assert_allclose(
        output.flat_values, by_hand(layer.embedding_model, features, [3, -1, 5, 3]), rtol=1e-5
    )
    empty = layer(tf.ragged.constant([[], []], dtype=tf.int64))
    assert empty.flat_values.shape == (0, 3)
    deep = layer(tf.ragged.constant([[[1], []], [[2, 3]]], dtype=tf.int64))
    assert deep.shape.as_list() == [2, None, None, 3]


def test_an_image_is_looked_up_and_embedded_once(store):
    rows = []

    class Counting(keras.layers.Dense):
        def call(self, inputs):
            rows.append(int(tf.shape(inputs)[0]))
            return super().call(inputs)

    layer = AmsEmbedding(store, Counting(2))
    before = layer.counters()
    layer(tf.constant([[3, 3, -1], [5, 3, -9]], tf.int64))
    after = layer.counters()
    assert rows == [2]
    assert after["lookups"] - before["lookups"] == 1
    assert after["ids_looked_up"] - before["ids_looked_up"] == 2
    assert after["images"] == 30 and after["ids_missing"] == before["ids_missing"]


def test_a_missing_image_is_an_error_that_names_it(store):
    layer = AmsEmbedding(store, make_tower())
    with pytest.raises(tf.errors.NotFoundError, match=r"2 of 3 image ids .*: 77, 99;"):
        layer(tf.constant([[3, 77], [99, 77]], tf.int64))


def test_a_missing_image_counts_as_zeros_and_trains_nothing(store, features):
    layer = AmsEmbedding(store, make_tower(), missing="zeros")
    before = layer.counters()["ids_missing"]
    ids = tf.constant([3, 77, 5, 99], tf.int64)
    with tf.GradientTape() as tape:
        output = layer(ids)
        loss = tf.reduce_sum(output * output + output)
    assert layer.counters()["ids_missing"] - before == 2
    assert not output.numpy()[[1, 3]].any()
    np.testing.assert_allclose(
        output.numpy()[[0, 2]], by_hand(layer.embedding_model, features, [3, 5]), rtol=1e-5
    )
    with tf.GradientTape() as by_hand_tape:
        known = by_hand(layer.embedding_model, features, [3, 5])
        by_hand_loss = tf.reduce_sum(known * known + known)
    variables = layer.trainable_variables
    for got, want in zip(
        tape.gradient(loss, variables), by_hand_tape.gradient(by_hand_loss, variables), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_a_missing_image_learns_a_vector_of_its_own(store, features):
    layer = AmsEmbedding(store, make_tower(), missing="learn")
    ids = tf.constant([[3, 77, -1], [99, 5, 77]], tf.int64)
    assert not layer(ids).numpy()[[0, 1, 1], [1, 0, 2]].any()  # It begins as zeros.
    tower = layer.embedding_model.embedding_model
    vector = layer.embedding_model.missing_embedding
    vector.assign([1.0, -2.0, 3.0])
    weights = tf.constant(np.random.default_rng(3).normal(size=(2, 3, 3)).astype("f4"))
    with tf.GradientTape() as tape:
        output = layer(ids)
        loss = tf.reduce_sum(weights * output * output)
    wanted = by_hand(tower, features, [[3, -1, -1], [-1, 5, -1]]).numpy()
    wanted[[0, 1, 1], [1, 0, 2]] = [1.0, -2.0, 3.0]
    np.testing.assert_allclose(output, wanted, rtol=1e-5, atol=1e-6)
    assert len(layer.trainable_variables) == 6
    of_vector = tape.gradient(loss, vector)
    np.testing.assert_allclose(
        of_vector,
        2 * (weights[0, 1] + weights[1, 0] + weights[1, 2]) * [1.0, -2.0, 3.0],
        rtol=1e-5,
    )
    assert_gradients_match(
        lambda: tf.reduce_sum(weights * tf.sin(layer(ids))), layer.trainable_variables
    )


def test_a_learnt_vector_survives_configuration_and_weights(store):
    layer = AmsEmbedding(store, make_tower(), missing="learn")
    ids = tf.constant([3, 77, -1], tf.int64)
    layer(ids)
    layer.embedding_model.missing_embedding.assign([4.0, 5.0, 6.0])
    again = AmsEmbedding.from_config(layer.get_config())
    again(ids)
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(again(ids), layer(ids))
    # An E that has a vector is not given another one, as where two stores share it.
    shared = AmsEmbedding(store, layer.embedding_model, missing="learn")
    assert shared.embedding_model is layer.embedding_model


def test_missing_images_are_kept_from_an_embedding_model_that_divides(store):
    """The gradient of a norm at zero is not a number."""
    dense = keras.layers.Dense(3, use_bias=False)
    tower = keras.Sequential(
        [dense, keras.layers.Lambda(lambda x: x / tf.norm(x, axis=1, keepdims=True))]
    )
    layer = AmsEmbedding(store, tower, missing="zeros")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(tf.constant([3, 77], tf.int64)))
    assert np.isfinite(tape.gradient(loss, dense.kernel)).all()


@pytest.mark.parametrize("missing", ["error", "zeros", "learn"])
def test_only_missing_or_no_images(store, missing):
    layer = AmsEmbedding(store, make_tower(), missing)
    ids = [77, -1] if missing == "zeros" else [-1, -1]
    with tf.GradientTape() as tape:
        output = layer(tf.constant(ids, tf.int64))
        loss = tf.reduce_sum(output)
    assert output.numpy().tolist() == [[0.0] * 3] * 2
    for gradient in tape.gradient(loss, layer.trainable_variables, unconnected_gradients="zero"):
        assert not gradient.numpy().any()


@pytest.mark.parametrize(
    "tower",
    [
        lambda: keras.Sequential([keras.Input([4]), keras.layers.Dense(2)]),
        lambda: keras.Model(i := keras.Input([4]), keras.layers.Dense(2)(i)),
        lambda: _built(keras.layers.Dense(2), 4),
        lambda: _built(keras.Sequential([keras.layers.PReLU(), keras.layers.Dense(2)]), 4),
    ],
)
def test_an_embedding_model_of_another_width_is_refused(store, tower):
    message = "takes 4 features an image, but ImageStore.* 30 images of 5 float32.*; give a store"
    with pytest.raises(ConfigError, match=message):
        AmsEmbedding(store, tower())(tf.constant([1], tf.int64))


def _built(layer, width):
    layer.build((None, width))
    return layer


def test_an_unknown_policy_is_refused(store):
    with pytest.raises(ConfigError, match="missing is 'skip'; use one of error, zeros, learn"):
        AmsEmbedding(store, make_tower(), missing="skip")


def test_config_round_trip(store):
    layer = AmsEmbedding(store, make_tower(7), missing="zeros", name="images")
    again = AmsEmbedding.from_config(layer.get_config())
    assert again.store.paths == store.paths and again.missing == "zeros" and again.name == "images"
    assert again(tf.constant([1], tf.int64)).shape == (1, 7)
    assert again.embedding_model.get_config()["name"] == layer.embedding_model.name


def make_model(store, **options):
    ad = keras.Input([], dtype=tf.int64, name="ad")
    behaviours = keras.Input([None], dtype=tf.int64, name="behaviours")
    layer = AmsEmbedding(store, make_tower(), **options)
    joined = layer(tf.concat([ad[:, None], behaviours], 1))
    click = keras.layers.Dense(1, activation="sigmoid")(tf.reduce_sum(joined, 1))
    return keras.Model([ad, behaviours], click)


@pytest.mark.parametrize("name", ["model.keras", "model.h5", "model"])
def test_save_and_load(store, tmp_path, name):
    model = make_model(store)
    batch = [tf.constant([3, -1], tf.int64), tf.constant([[5, -1], [3, 29]], tf.int64)]
    wanted = model(batch)
    model.save(tmp_path / name)
    np.testing.assert_allclose(keras.models.load_model(tmp_path / name)(batch), wanted, rtol=1e-6)
    model.save_weights(tmp_path / "w.weights.h5")
    fresh = make_model(store)
    fresh.load_weights(tmp_path / "w.weights.h5")
    np.testing.assert_allclose(fresh(batch), wanted, rtol=1e-6)


def test_fit_learns_what_the_images_show_and_predict_agrees(store, features):
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(0)
    ad, behaviours = rng.integers(0, 30, 600), rng.integers(-1, 30, (600, 3))
    taste = features[:, 0]
    labels = (taste[ad] + np.where(behaviours < 0, 0, taste[behaviours]).sum(1) > 0).astype("f4")
    model = make_model(store)
    model.compile(keras.optimizers.Adam(0.05), "binary_crossentropy")
    before = [weight.numpy() for weight in model.trainable_variables]
    losses = model.fit([ad, behaviours], labels, 64, 25, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]
    for old, new in zip(before, model.trainable_variables, strict=True):
        assert np.abs(old - new).max() > 1e-3, new.name
    predicted = model.predict([ad, behaviours], batch_size=77, verbose=0)
    np.testing.assert_allclose(predicted, model([ad, behaviours]), atol=1e-5)


@pytest.mark.parametrize("shape", [(), (9,), (0,), (4, 5)])
def test_a_table_equals_the_embedding_model(store, shape):
    layer = AmsEmbedding(store, make_tower(), missing="zeros")
    ids = tf.constant(np.random.default_rng(4).integers(-1, 35, shape), tf.int64)
    wanted = layer(ids)
    known = np.sort(store.ids)
    layer.use_table(known, layer.embed_features(store.read(known)))
    traced = tf.function(layer).get_concrete_function(tf.TensorSpec(ids.shape, tf.int64))
    assert not [op.type for op in traced.graph.get_operations() if op.type.startswith("Ams")]
    np.testing.assert_allclose(layer(ids), wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(traced(ids), wanted, rtol=1e-5, atol=1e-6)


def test_an_empty_table(store):
    layer = AmsEmbedding(store, make_tower())
    layer(tf.constant([1], tf.int64))
    layer.use_table(np.empty(0, np.int64), np.empty((0, 3), "f4"))
    assert layer(tf.constant([[3, -1]], tf.int64)).numpy().tolist() == [[[0.0] * 3] * 2]


@pytest.mark.parametrize(
    "ids, embeddings, message",
    [
        ([3, 1], np.ones((2, 3)), "ascending order"),
        ([1, 1], np.ones((2, 3)), "ascending order"),
        ([1, 2], np.ones((2, 4)), r"\[2\] and embeddings \[2, 4\]; wanted \[n\] and \[n, 3\]"),
        ([1, 2], np.ones((3, 3)), "wanted"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(store, ids, embeddings, message):
    layer = AmsEmbedding(store, make_tower())
    layer.build([None])
    with pytest.raises(ConfigError, match=message):
        layer.use_table(ids, embeddings)
