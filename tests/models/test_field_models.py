"""DeepFM, DCN, PNN, FiBiNET: numbers by hand, numbers as fields, gradients, saving, images."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from amstf.errors import SchemaError
from amstf.schema import Field, Schema
from models import (
    Dcn,
    DcnV2,
    DeepFm,
    Dicm,
    FiBiNet,
    FieldEmbedding,
    Pnn,
    build,
    input_specs,
)
from models.id_embedding import of_width
from tests.helpers import (
    CLICK_SCHEMA,
    assert_model_gradients_match,
    assert_weights_survive,
    ragged,
    random_batch,
    tensors,
)

SCHEMA = of_width(CLICK_SCHEMA, 3)
SMALL = Schema(
    (
        Field("user", "sparse", vocabulary_size=2, embedding_width=2),
        Field("ad", "sparse", vocabulary_size=2, embedding_width=2),
        Field("price", "dense"),
        Field("click", "label"),
    )
)
BATCH = {
    "user": tf.constant([0, 1], tf.int64),
    "ad": tf.constant([1, 7], tf.int64),
    "price": tf.constant([[2.0], [0.0]]),
}
# Rows of users, ads, each with the unknown one: a weight and an embedding.
USERS_AND_ADS = np.array(
    [[0.5, 1, 2], [-0.5, 3, 0], [0, 0, 0], [9, 9, 9], [0.25, 1, -1], [1, 0, 2]], np.float32
)
MODELS = {
    "deepfm": (DeepFm, {}),
    "dcn": (Dcn, {"layers": 2}),
    "dcn_v2": (DcnV2, {"layers": 2}),
    "dcn_v2_low_rank": (DcnV2, {"layers": 2, "rank": 2}),
    "dcn_v2_mixture": (DcnV2, {"layers": 2, "rank": 2, "experts": 2}),
    "pnn": (Pnn, {}),
    "pnn_outer": (Pnn, {"products": "outer"}),
    "pnn_both": (Pnn, {"products": "both"}),
    "fibinet": (FiBiNet, {"reduction": 1}),
    "fibinet_each": (FiBiNet, {"bilinear": "each", "reduction": 2}),
}
each_model = pytest.mark.parametrize("name", MODELS)


def make(name, schema=SCHEMA, hidden=(6, 3), **arguments):
    kind, interaction = MODELS[name]
    return kind(schema, hidden, interaction=interaction, **arguments)


def with_weights(model, **values):
    """Builds a model of SMALL; weights whose names have a part take its value, the others zeros."""
    build(model, SMALL)
    unused = dict(values)
    for weight in model.weights:
        parts = [part for part in values if part in weight.name.replace("/", "_")]
        weight.assign(values[parts[0]] if parts else tf.zeros_like(weight))
        unused.pop(parts[0] if parts else "", None)
    assert not unused
    return model


def sigmoid(*logits):
    return 1 / (1 + np.exp(-np.array(logits)))


def test_deepfm_by_hand():
    model = with_weights(
        DeepFm(SMALL, (1,), activation="linear"),
        # The ad of the second sample is unknown.
        table_fields=USERS_AND_ADS,
        vectors_of_dense=[[0.5, 1.0]],
        dense_kernel=np.ones([7, 1]),
        head_kernel=[[0.75], [2.0]],
        head_bias=[1.0],
    )
    # The weights give 0.75. <user, ad> = 1 - 2, and with price (1, 2): <user, price> = 5,
    # <ad, price> = -1. The number is 2 * 0.75, the MLP (1 + 2) + (1 - 1) + (1 + 2) + 2 = 8.
    # Second, an unknown ad: 0.5; <user, ad> = 0, the price is 0; 3 + 0 + 0 + 2 = 5.
    want = sigmoid(1 + 0.75 + 3 + 1.5 + 2 * 8, 1 + 0.5 + 2 * 5)
    np.testing.assert_allclose(model(BATCH)[:, 0], want, rtol=1e-6)


def test_dcn_by_hand():
    model = with_weights(
        Dcn(SMALL, (1,), activation="linear", interaction={"layers": 1}),
        table_fields=USERS_AND_ADS[:, 1:],
        cross_kernel_0=[[1.0], [0.0], [0.0], [0.0], [-1.0]],
        dense_kernel=np.ones([5, 1]),
        logit_kernel=[[0.0], [1.0], [0.0], [0.0], [0.5], [0.1]],
    )
    # x = (1, 2, 1, -1, 2) -> x (1 - 2) + x = 0, MLP 5.  x = (3, 0, 0, 2, 0) -> 3 x + x, MLP 5.
    np.testing.assert_allclose(model(BATCH)[:, 0], sigmoid(0.5, 0 * 4 + 0.5), rtol=1e-6)


@pytest.mark.parametrize(
    ("products", "width", "want"),
    [("inner", 10, (8 + 3, 5)), ("outer", 11, (8 + 36, 5 + 25)), ("both", 14, (47, 5 + 25))],
)
def test_pnn_by_hand(products, width, want):
    model = with_weights(
        Pnn(SMALL, (1,), activation="linear", interaction={"products": products}),
        table_fields=USERS_AND_ADS[:, 1:],
        vectors_of_dense=[[0.5, 1.0]],
        dense_kernel=np.ones([width, 1]),
        logit_kernel=[[0.25]],
    )
    # Fields (1, 2), (1, -1), (1, 2) and the number 2: 8; products -1 + 5 - 1; their sum is (3, 3),
    # whose outer product adds up to 36.  (3, 0), (0, 2), (0, 0): 5; 0; (3, 2), 25.
    np.testing.assert_allclose(model(BATCH)[:, 0], sigmoid(*np.array(want) / 4), rtol=1e-6)


def test_fibinet_by_hand():
    model = with_weights(
        FiBiNet(SMALL, (1,), activation="linear", interaction={"bilinear": "all"}),
        table_fields=USERS_AND_ADS,
        vectors_of_dense=[[0.5, 1.0]],
        senet_squeeze=np.ones([3, 1]),
        senet_excite=[[1.0, 0.0, 2.0]],
        scaled_bilinear_kernel=2 * np.eye(2),
        bilinear_kernel=np.eye(2),
        dense_kernel=np.ones([13, 1]),
        head_kernel=[[0.0], [0.5]],
    )
    # Fields (1, 2), (1, -1), (1, 2): the pairs' products add up to -1 + 5 - 1 = 3. The means 1.5,
    # 0 and 1.5 make 3, the weights 3, 0 and 6: one pair is left, 2 * 3 * 6 * 5 = 180. The number 2.
    # Second: (3, 0), (0, 2), (0, 0): no product that is not 0.
    want = sigmoid(0.75 + (3 + 180 + 2) / 2 - 90, 0.5)
    model.head.bias.assign([-90.0])
    got = model(BATCH)[:, 0]
    np.testing.assert_allclose(got[0], want[0], rtol=1e-4)
    model.head.bias.assign([0.0])
    np.testing.assert_allclose(model(BATCH)[1, 0], want[1], rtol=1e-6)


def test_numbers_are_fields_with_vectors_or_only_numbers():
    layer, plain = FieldEmbedding(SMALL, num_sums=1), FieldEmbedding(SMALL, dense_vectors=False)
    rows = layer(BATCH)
    sums, vectors, others = layer.layout.split(rows)
    assert (sums.shape, vectors.shape, others.shape) == ((2, 1), (2, 3, 2), (2, 1))
    np.testing.assert_allclose(vectors[:, 2], BATCH["price"] * layer.vectors_of_dense)
    np.testing.assert_array_equal(others, BATCH["price"])
    (table,) = layer.tables.values()
    rows = np.split(table.embeddings.numpy(), 2)
    np.testing.assert_allclose(
        sums[:, 0], [rows[0][0, 0] + rows[1][1, 0], rows[0][1, 0] + rows[1][2, 0]]
    )
    np.testing.assert_array_equal(vectors[0, :2], [rows[0][0, 1:], rows[1][1, 1:]])
    sums, vectors, others = plain.layout.split(plain(BATCH))
    assert (sums.shape, vectors.shape, others.shape) == ((2, 0), (2, 2, 2), (2, 1))
    numbers = Schema((Field("x", "dense", length=2), Field("click", "label")))
    only = FieldEmbedding(numbers, num_sums=1)
    sums, vectors, _ = only.layout.split(only({"x": tf.ones([2, 2])}))
    assert vectors.shape == (2, 2, 12) and not sums.numpy().any()


@each_model
def test_gradients(name):
    keras.utils.set_random_seed(3)
    # Without the kinks of PReLU, at which a difference is no derivative.
    model = make(name, activation="tanh")
    assert_model_gradients_match(model, tensors(random_batch(SCHEMA, 16, 4)), samples=3)


@each_model
def test_forms_of_a_batch_and_saving(name, tmp_path):
    keras.utils.set_random_seed(1)
    model = build(make(name), SCHEMA)
    traced = tf.function(model, input_signature=[input_specs(SCHEMA)])
    for size, length in ((5, 4), (1, 0), (0, 2)):
        batch = random_batch(SCHEMA, size, length)
        want = model(tensors(batch))
        assert want.shape == (size, 1) and want.dtype == tf.float32
        np.testing.assert_allclose(traced(tensors(batch)), want, rtol=1e-5)
        np.testing.assert_allclose(model(ragged(SCHEMA, batch)), want, rtol=1e-6)
    again = type(model).from_config(model.get_config())
    assert again.get_config() == model.get_config()
    again(tensors(batch))
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again(tensors(batch)), model(tensors(batch)))
    assert_weights_survive(lambda: make(name), tensors(random_batch(SCHEMA, 4, 3)), str(tmp_path))


@each_model
def test_several_labels_and_images(name):
    schema = Schema((*SCHEMA.fields, Field("buy", "label")))
    batch = tensors(random_batch(schema, 3, 2))
    outputs = make(name, schema)(batch)
    assert list(outputs) == ["click", "buy"] and outputs["buy"].shape == (3, 1)
    kind, interaction = MODELS[name]
    table = keras.Sequential([keras.layers.Embedding(40, 4), keras.layers.Activation("relu")])
    image_embedding = keras.layers.Lambda(lambda ids: table(tf.maximum(ids, 0)))
    dicm = Dicm(
        SCHEMA, image_embedding=image_embedding, hidden=(4,), base=kind, interaction=interaction
    )
    assert dicm(batch).shape == (3, 1)


def test_fit_learns_a_product():
    # Whether the parities of user and item are equal: no field by itself says anything.
    keras.utils.set_random_seed(4)
    batch = random_batch(SCHEMA, 512, 2)
    labels = ((batch["user"] + batch["item"]) % 2).astype(np.float32)[:, None]
    data = tf.data.Dataset.from_tensor_slices((tensors(batch), labels)).batch(64)
    model = DeepFm(SCHEMA.without(["liked", "words", "price"]), ())
    model.compile(keras.optimizers.Adam(0.05), "binary_crossentropy", metrics=["AUC"])
    history = model.fit(data, epochs=25, verbose=0).history
    assert history["auc"][0] < 0.65 and history["auc"][-1] > 0.95


def test_schemas_that_do_not_fit_are_named():
    with pytest.raises(SchemaError, match=r"widths differ \(3: user; 2: liked, words, item\)"):
        DeepFm(CLICK_SCHEMA)
    Dcn(CLICK_SCHEMA)
    one = Schema((SMALL["user"], SMALL["click"]))
    with pytest.raises(SchemaError, match="has 1 fields for a model that multiplies"):
        Pnn(one)
