"""ID embeddings: numbers by hand, padding, sharing, unknown ids, gradients."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from amstf.errors import SchemaError
from amstf.schema import Field, Schema
from models import IdEmbedding, build
from tests.helpers import CLICK_SCHEMA, assert_gradients_match, ragged, random_batch, tensors

CLICK = Field("click", "label")


def one_field(**attributes):
    attributes = {"vocabulary_size": 4, "embedding_width": 2, **attributes}
    return Schema((Field("x", attributes.pop("kind", "sparse"), **attributes), CLICK))


def with_rows(schema, rows=None):
    """A layer whose row i is (i, 100 i), and whose unknown row is the last one."""
    layer = IdEmbedding(schema)
    for table in layer.tables.values():
        table.build(None)
        count = table.input_dim
        table.set_weights([np.array(rows or [[i, 100 * i] for i in range(count)], np.float32)])
    return layer


def embed(schema, **inputs):
    return with_rows(schema)({name.replace("_", "."): v for name, v in inputs.items()}).numpy()


def ids(*values):
    return tf.constant(values, tf.int64)


def test_single_ids_by_hand():
    np.testing.assert_array_equal(embed(one_field(), x=ids(3, 0)), [[3, 300], [0, 0]])
    # As a column, as Keras may hand it on, and as int32.
    np.testing.assert_array_equal(embed(one_field(), x=ids([3], [1])), [[3, 300], [1, 100]])
    np.testing.assert_array_equal(embed(one_field(), x=tf.constant([2])), [[2, 200]])


def test_unknown_ids_share_the_last_row_and_padding_is_zeros():
    got = embed(one_field(), x=ids(4, 99, -7, -1, 2**60))
    np.testing.assert_array_equal(got, [[4, 400], [4, 400], [4, 400], [0, 0], [4, 400]])


@pytest.mark.parametrize("form", ["padded", "ragged"])
@pytest.mark.parametrize(
    ("combiner", "want"),
    [("sum", [[6, 600], [0, 0], [2, 200]]), ("mean", [[2, 200], [0, 0], [2, 200]])],
)
def test_lists_by_hand(combiner, want, form):
    lists = ids([1, 2, 3], [-1, -1, -1], [2, -1, -1])
    if form == "ragged":
        lists = tf.RaggedTensor.from_tensor(lists, padding=-1)
        assert lists.row_lengths().numpy().tolist() == [3, 0, 1]
    schema = one_field(is_list=True, combiner=combiner)
    np.testing.assert_array_equal(embed(schema, x=lists), want)


def test_padding_in_the_middle_of_a_list_counts_for_nothing():
    schema = one_field(is_list=True, combiner="mean")
    np.testing.assert_array_equal(embed(schema, x=ids([-1, 1, -1, 3])), [[2, 200]])
    np.testing.assert_array_equal(embed(schema, x=tf.ragged.constant([[1, -1, 3]])), [[2, 200]])


@pytest.mark.parametrize("form", ["padded", "ragged"])
@pytest.mark.parametrize(
    ("combiner", "want"), [("sum", [[6.5, 650], [0, 0]]), ("mean", [[2.6, 260], [0, 0]])]
)
def test_weighted_lists_by_hand(combiner, want, form):
    lists, weights = ids([1, 3], [-1, -1]), tf.constant([[0.5, 2.0], [7.0, 7.0]])
    if form == "ragged":
        lists = tf.RaggedTensor.from_tensor(lists, padding=-1)
        weights = tf.RaggedTensor.from_tensor(weights, lengths=[2, 0])
    schema = one_field(kind="weighted_sparse", is_list=True, combiner=combiner)
    np.testing.assert_allclose(embed(schema, x=lists, x_weight=weights), want, rtol=1e-6)


def test_dense_fields_pass_through():
    schema = Schema((Field("x", "dense", length=2), Field("y", "dense"), CLICK))
    got = IdEmbedding(schema)({"x": tf.constant([[1.0, 2.0]]), "y": tf.constant([3.0])})
    np.testing.assert_array_equal(got, [[1, 2, 3]])


@pytest.mark.parametrize("values", [["cat", "dog", "cat", ""], [5, -9, 5, -1]])
def test_hashed_ids_are_stable_and_padding_is_zeros(values):
    dtype = "string" if isinstance(values[0], str) else "int64"
    schema = one_field(vocabulary_size=None, hash_size=50, dtype=dtype)
    layer = IdEmbedding(schema)
    got = layer({"x": tf.constant(values, dtype)}).numpy()
    np.testing.assert_array_equal(got[0], got[2])
    assert np.any(got[0] != got[1]) and np.all(got[3] == 0)
    assert layer.tables["x"].embeddings.shape == (50, 2)


def test_fields_that_name_a_table_share_it_and_its_gradient():
    schema = Schema((
        Field("a", "sparse", vocabulary_size=5, embedding_width=2, table="t"),
        Field("b", "sparse", is_list=True, vocabulary_size=5, embedding_width=2, table="t"),
        CLICK,
    ))  # fmt: skip
    layer = with_rows(schema)
    batch = {"a": ids(1, 2), "b": ids([1, 3], [1, -1])}
    with tf.GradientTape() as tape:
        got = layer(batch)
        total = tf.reduce_sum(got * tf.constant([[1.0, 1, 10, 10], [1, 1, 100, 100]]))
    np.testing.assert_array_equal(got, [[1, 100, 4, 400], [2, 200, 1, 100]])
    assert len(layer.trainable_variables) == 1
    gradient = tape.gradient(total, layer.trainable_variables[0])
    assert isinstance(gradient, tf.IndexedSlices)
    # Each row once: row 1 is used by a (1) and by b (10 and 100).
    rows = dict(zip(gradient.indices.numpy().tolist(), gradient.values.numpy()[:, 0], strict=True))
    assert rows == {1: 111.0, 2: 1.0, 3: 10.0}


def test_gradient_is_sparse_and_silent_when_traced(recwarn):
    layer = with_rows(one_field(is_list=True))
    kinds = []

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int64)])
    def step(lists):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer({"x": lists}) ** 2)
        gradient = tape.gradient(loss, layer.trainable_variables[0])
        kinds.append(type(gradient))
        return gradient.indices

    assert sorted(step(ids([3, 3, 1], [1, -1, -1])).numpy()) == [1, 3]
    assert kinds == [tf.IndexedSlices]
    assert not [w for w in recwarn if "IndexedSlices" in str(w.message)]


def test_gradients():
    keras.utils.set_random_seed(1)
    layer = IdEmbedding(CLICK_SCHEMA, embeddings_initializer=keras.initializers.RandomNormal())
    batch = tensors(random_batch(CLICK_SCHEMA, 6, 4))
    layer(batch)
    target = tf.random.stateless_normal([6, layer.width], [1, 2])
    loss = lambda: tf.reduce_sum((layer(batch) - target) ** 2)  # noqa: E731
    assert_gradients_match(loss, layer.trainable_variables)


@pytest.mark.parametrize(("batch_size", "length"), [(5, 4), (1, 3), (1, 0), (3, 0), (0, 2)])
def test_ragged_equals_padded(batch_size, length):
    keras.utils.set_random_seed(1)
    layer = IdEmbedding(CLICK_SCHEMA)
    batch = random_batch(CLICK_SCHEMA, batch_size, length)
    padded = layer(tensors(batch)).numpy()
    assert padded.shape == (batch_size, layer.width) == (batch_size, 11)
    assert np.all(np.isfinite(padded))
    np.testing.assert_array_equal(layer(ragged(CLICK_SCHEMA, batch)), padded)


def test_per_field_and_per_side():
    keras.utils.set_random_seed(1)
    layer = IdEmbedding(CLICK_SCHEMA)
    batch = tensors(random_batch(CLICK_SCHEMA, 4, 3))
    whole, parts = layer(batch).numpy(), layer(batch, per_field=True)
    assert list(parts) != [] and set(parts) == {"user", "liked", "words", "item", "price"}
    np.testing.assert_array_equal(layer.join(parts), whole)
    np.testing.assert_array_equal(layer.join(parts, side="ad"), whole[:, 7:])
    np.testing.assert_array_equal(layer.join(parts, side="user"), whole[:, :7])
    np.testing.assert_array_equal(parts["item"], whole[:, 7:9])
    only_ad = IdEmbedding(CLICK_SCHEMA, sides=["ad"])
    assert only_ad({name: batch[name] for name in ("item", "price")}).shape == (4, 4)


def test_tables_of_one_shape_start_different():
    fields = [Field(name, "sparse", vocabulary_size=4) for name in "ab"]
    schema = Schema((*fields, CLICK))
    one, other = (v.numpy() for v in build(IdEmbedding(schema), schema).weights)
    assert one.shape == other.shape and not np.allclose(one, other)


def test_regularizer_counts_the_rows_of_the_batch_once_and_in_training_only():
    layer = IdEmbedding(one_field(is_list=True), embeddings_regularizer=keras.regularizers.L2(0.1))
    layer.tables["x"].build(None)
    layer.tables["x"].set_weights([np.array([[1, 0], [2, 0], [4, 0], [8, 0], [16, 0]])])
    batch = {"x": ids([1, 1, 2], [1, -1, -1])}
    layer(batch, training=False)
    assert layer.losses == []
    with tf.GradientTape() as tape:
        layer(batch, training=True)
        (loss,) = layer.losses
    assert float(loss) == pytest.approx(0.1 * (2**2 + 4**2))
    assert isinstance(tape.gradient(loss, layer.weights[0]), tf.IndexedSlices)


def test_config_round_trip():
    layer = IdEmbedding(CLICK_SCHEMA, ["ad"], "ones", keras.regularizers.L2(0.5), name="ids")
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    assert again.get_config() == layer.get_config()
    assert again.schema == CLICK_SCHEMA and again.sides == ("ad",)
    batch = tensors(random_batch(CLICK_SCHEMA, 2, 3))
    np.testing.assert_array_equal(again(batch), layer(batch))


@pytest.mark.parametrize(
    ("schema", "batch", "message"),
    [
        (one_field(), {"y": ids(1)}, "the batch has no 'x', which the model's schema names; it h"),
        (one_field(), {"x": ids([1, 2])}, r"field 'x' has shape \(1, 2\); wanted \[B\], it is n"),
        (one_field(is_list=True), {"x": ids(1)}, r"field 'x' has shape \(1,\); wanted \[B, T\]"),
        (one_field(), {"x": tf.constant(["a"])}, "field 'x' holds string, wanted int64"),
        (
            Schema((Field("x", "dense", length=3), CLICK)),
            {"x": tf.zeros([2, 2])},
            r"field 'x' has shape \(2, 2\); wanted \[B, 3\]",
        ),
        (
            one_field(kind="weighted_sparse", is_list=True),
            {"x": ids([1])},
            "the batch has no 'x.weight'",
        ),
    ],
)
def test_bad_batches_are_named(schema, batch, message):
    with pytest.raises(SchemaError, match=message):
        IdEmbedding(schema)(batch)


def test_a_schema_without_ids_is_refused():
    with pytest.raises(SchemaError, match="no sparse or dense field of the sides user"):
        IdEmbedding(one_field(side="ad"), sides=["user"])
