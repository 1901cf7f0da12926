"""DIN: which behaviours are attended to, numbers by hand, gradients, saving."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from amstf.errors import SchemaError
from amstf.schema import Field, Schema
from models import AttentivePooling, Dice, Din, DinEmbedding, IdEmbedding, build, input_specs
from tests.helpers import (
    CLICK_SCHEMA,
    assert_model_gradients_match,
    assert_weights_survive,
    ragged,
    random_batch,
    tensors,
)

CLICK = Field("click", "label")
ITEM = {"vocabulary_size": 5, "embedding_width": 2, "table": "item"}


def schema_of(*fields, bought="sparse"):
    return Schema((
        Field("bought", bought, side="user", is_list=True, **ITEM),
        Field("item", "sparse", side="ad", **ITEM),
        *fields,
        CLICK,
    ))  # fmt: skip


def with_rows(schema, **arguments):
    """A layer whose row i is (i, 1), and whose activation unit is a = 2 e_1 q_1 - 1."""
    layer = build(DinEmbedding(schema, attention_hidden=(), **arguments), schema)
    for table in layer.tables.values():
        table.set_weights([np.array([[i, 1] for i in range(table.input_dim)], np.float32)])
    kernel = np.zeros([8, 1])
    kernel[4] = 2.0
    for attention in layer.attentions.values():
        attention.set_weights([kernel, np.array([-1.0])])
    return layer


def ids(*values):
    return tf.constant(values, tf.int64)


@pytest.mark.parametrize("form", ["padded", "ragged"])
def test_by_hand(form):
    layer = with_rows(schema_of())
    bought = ids([1, 3, -1], [-1, -1, -1], [-1, 4, -1])
    if form == "ragged":
        bought = tf.ragged.boolean_mask(bought, bought != -1)
    got = layer({"bought": bought, "item": ids(2, 3, 1)})
    # Item 2: a is 2 * 1 * 2 - 1 = 3 and 2 * 3 * 2 - 1 = 11, so 3 (1, 1) + 11 (3, 1) = (36, 14).
    # Item 1: a is 2 * 4 - 1 = 7, so (28, 7).
    np.testing.assert_allclose(got, [[36, 14, 2, 1], [0, 0, 3, 1], [28, 7, 1, 1]])


def test_weighted_behaviours_by_hand():
    layer = with_rows(schema_of(bought="weighted_sparse"))
    batch = {"bought": ids([1, 3]), "bought.weight": tf.constant([[0.5, 2.0]]), "item": ids(2)}
    # e is (0.5, 0.5) and (6, 2): a is 1 and 23, so (0.5 + 138, 0.5 + 46).
    np.testing.assert_allclose(layer(batch), [[138.5, 46.5, 2, 1]])


def test_behaviours_are_found_by_their_table_or_named():
    other = Field("seller", "sparse", side="ad", vocabulary_size=9, embedding_width=2)
    schema = schema_of(other)
    assert DinEmbedding(schema).behaviours == {"bought": "item"}
    assert DinEmbedding(CLICK_SCHEMA).behaviours == {"liked": "item"}
    layer = with_rows(schema, behaviours={"bought": "seller"})
    batch = {"bought": ids([1]), "item": ids(0), "seller": ids(5)}
    # The seller's row 5 is (5, 1): a is 2 * 1 * 5 - 1 = 9.
    np.testing.assert_allclose(layer(batch), [[9, 9, 0, 1, 5, 1]])
    model = Din(schema, behaviours={"bought": "seller"})
    assert model.id_embedding.behaviours == {"bought": "seller"}


def test_only_the_behaviours_differ_from_embedding_mlp():
    keras.utils.set_random_seed(1)
    plain, layer = IdEmbedding(CLICK_SCHEMA), DinEmbedding(CLICK_SCHEMA)
    batch = tensors(random_batch(CLICK_SCHEMA, 6, 4))
    plain(batch), layer(batch)
    assert layer.width == plain.width == 11
    for name, table in plain.tables.items():
        table.set_weights(layer.tables[name].get_weights())
    want, got = plain(batch, per_field=True), layer(batch, per_field=True)
    assert set(want) == set(got)
    for name in want:
        if name != "liked":
            np.testing.assert_array_equal(got[name], want[name])
    assert not np.allclose(got["liked"], want["liked"], atol=1e-3)


def test_attention_is_dins_with_dice():
    model = build(Din(CLICK_SCHEMA, (6, 4)), CLICK_SCHEMA)
    (attention,) = model.id_embedding.attentions.values()
    assert isinstance(attention, AttentivePooling) and not attention.softmax
    assert attention.get_config()["hidden"] == [36]
    dices = [layer for layer in model.submodules if isinstance(layer, Dice)]
    assert len(dices) == 3


@pytest.mark.parametrize(("batch_size", "length"), [(5, 4), (1, 3), (1, 0), (3, 0)])
def test_ragged_equals_padded_and_traced_equals_eager(batch_size, length):
    keras.utils.set_random_seed(1)
    model = Din(CLICK_SCHEMA, hidden=(6, 3))
    batch = random_batch(CLICK_SCHEMA, batch_size, length)
    want = model(tensors(batch))
    assert want.shape == (batch_size, 1) and want.dtype == tf.float32
    assert np.all(np.isfinite(want))
    traced = tf.function(model, input_signature=[input_specs(CLICK_SCHEMA)])
    np.testing.assert_allclose(traced(tensors(batch)), want, rtol=1e-5)
    np.testing.assert_allclose(model(ragged(CLICK_SCHEMA, batch)), want, rtol=1e-5)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(tensors(batch), training=True))
    for gradient in tape.gradient(loss, model.trainable_variables):
        assert np.all(np.isfinite(tf.convert_to_tensor(gradient)))


def test_order_and_padding_of_behaviours_have_no_influence():
    keras.utils.set_random_seed(1)
    model = Din(CLICK_SCHEMA, hidden=(6,))
    batch = random_batch(CLICK_SCHEMA, 6, 5)
    want = model(tensors(batch))
    liked = np.pad(batch["liked"][:, ::-1], [(0, 0), (0, 3)], constant_values=-1)
    np.testing.assert_allclose(model(tensors({**batch, "liked": liked})), want, rtol=1e-5)


def test_gradients():
    keras.utils.set_random_seed(2)
    table = DinEmbedding(CLICK_SCHEMA, embeddings_initializer=keras.initializers.RandomNormal())
    model = Din(CLICK_SCHEMA, hidden=(8, 4), id_embedding=table)
    batch = tensors(random_batch(CLICK_SCHEMA, 16, 4))
    assert_model_gradients_match(model, batch)


def test_gradient_of_the_table_is_sparse():
    layer = with_rows(schema_of())
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer({"bought": ids([3, 1]), "item": ids(3)}) ** 2)
    gradient = tape.gradient(loss, layer.tables["item"].embeddings)
    assert isinstance(gradient, tf.IndexedSlices)
    assert sorted(gradient.indices.numpy()) == [1, 3]


def test_weights_and_config_survive(tmp_path):
    batch = tensors(random_batch(CLICK_SCHEMA, 4, 3))
    assert_weights_survive(lambda: Din(CLICK_SCHEMA, (5,)), batch, str(tmp_path))
    model = Din(CLICK_SCHEMA, (5,), 0.1, behaviours={"liked": "item"}, name="din")
    again = Din.from_config(model.get_config())
    assert again.get_config() == model.get_config()
    model(batch), again(batch)
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again(batch), model(batch))


def test_saved_model_survives(tmp_path):
    model = build(Din(CLICK_SCHEMA, (5,)), CLICK_SCHEMA)
    model.save(tmp_path / "model", save_format="tf")
    served = tf.saved_model.load(str(tmp_path / "model"))
    for size, length in ((1, 0), (4, 3)):
        batch = tensors(random_batch(CLICK_SCHEMA, size, length))
        np.testing.assert_allclose(served(batch), model(batch), rtol=1e-6)


def test_fit_learns_that_users_click_what_they_bought():
    keras.utils.set_random_seed(4)
    rng = np.random.default_rng(3)
    schema = schema_of()
    bought = rng.integers(5, size=(400, 2))
    item = rng.integers(5, size=400)
    labels = np.any(bought == item[:, None], axis=1).astype(np.float32)[:, None]
    data = tf.data.Dataset.from_tensor_slices(({"bought": bought, "item": item}, labels))
    model = Din(schema, (8,))
    model.compile(keras.optimizers.Adam(0.03), "binary_crossentropy")
    losses = model.fit(data.batch(50), epochs=30, verbose=0).history["loss"]
    assert losses[0] > 0.5 and losses[-1] < 0.2


@pytest.mark.parametrize(
    ("schema", "behaviours", "message"),
    [
        (schema_of(Field("similar", "sparse", side="ad", **ITEM)), None,
         "'bought' shares its table with several fields of the ad: item, similar; say which"),
        (schema_of().without(["item"]), None, "DIN has no behaviours to attend to"),
        (schema_of(), {"basket": "item"}, "behaviours names 'basket', which is no sparse list"),
        (schema_of(), {"bought": "bought"}, "behaviours names 'bought', which is no single spars"),
        (schema_of(Field("ad", "sparse", side="ad", vocabulary_size=3)), {"bought": "ad"},
         "pairs 'bought' of embedding_width 2 with 'ad' of 12; give both the same width"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(schema, behaviours, message):
    with pytest.raises(SchemaError, match=message):
        Din(schema, behaviours=behaviours)
