"""What every aggregator keeps to, and each one's numbers by hand."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from amstf.errors import ConfigError
from models import AttentivePooling, SumPooling
from models.aggregators import make_aggregator
from tests.helpers import assert_gradients_match

MAKERS = [
    pytest.param(SumPooling, id="sum"),
    pytest.param(AttentivePooling, id="attentive"),
    pytest.param(lambda: AttentivePooling((5,), "tanh", softmax=True), id="softmax"),
]
every_aggregator = pytest.mark.parametrize("make", MAKERS)


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(11)


def example(batch_size=4, length=6, width=3, seed=0):
    rng = np.random.default_rng(seed)
    behaviours = rng.normal(size=(batch_size, length, width)).astype(np.float32)
    lengths = rng.integers(1, length + 1, size=batch_size)
    lengths[-1] = 0 if batch_size > 1 else length
    mask = np.arange(length)[None, :] < lengths[:, None]
    query = rng.normal(size=(batch_size, width)).astype(np.float32)
    return behaviours, mask, query


@every_aggregator
def test_what_stands_in_the_padding_has_no_influence(make):
    behaviours, mask, query = example()
    aggregator = make()
    want = aggregator(behaviours, mask, query).numpy()
    assert np.abs(want[:-1]).min() > 0
    for filling in (1e30, np.nan, np.inf):
        filled = tf.constant(np.where(mask[:, :, None], behaviours, np.float32(filling)))
        with tf.GradientTape() as tape:
            tape.watch(filled)
            got = aggregator(filled, mask, query)
        np.testing.assert_array_equal(got, want)
        gradient = tape.gradient(got, filled).numpy()
        assert np.all(gradient[~mask] == 0) and np.all(np.isfinite(gradient))
        assert np.any(gradient[mask] != 0)


@every_aggregator
def test_longer_padding_has_no_influence(make):
    behaviours, mask, query = example()
    aggregator = make()
    longer = np.pad(behaviours, [(0, 0), (0, 5), (0, 0)])
    np.testing.assert_allclose(
        aggregator(longer, np.pad(mask, [(0, 0), (0, 5)]), query),
        aggregator(behaviours, mask, query),
        rtol=1e-5,
        atol=1e-6,
    )


@every_aggregator
def test_order_has_no_influence(make):
    behaviours, mask, query = example()
    aggregator = make()
    order = np.random.default_rng(3).permutation(behaviours.shape[1])
    np.testing.assert_allclose(
        aggregator(behaviours[:, order], mask[:, order], query),
        aggregator(behaviours, mask, query),
        rtol=1e-5,
        atol=1e-6,
    )


@every_aggregator
@pytest.mark.parametrize(("batch_size", "length"), [(1, 1), (1, 5), (3, 0), (1, 0), (0, 4)])
def test_small_shapes_and_unknown_ones(make, batch_size, length):
    aggregator = make()
    traced = tf.function(
        aggregator,
        input_signature=[
            tf.TensorSpec([None, None, 3]),
            tf.TensorSpec([None, None], tf.bool),
            tf.TensorSpec([None, 3]),
        ],
    )
    behaviours = tf.ones([batch_size, length, 3])
    got = traced(behaviours, tf.ones([batch_size, length], tf.bool), tf.ones([batch_size, 3]))
    assert got.shape == (batch_size, 3)
    assert np.all(np.isfinite(got))
    if length == 0:
        np.testing.assert_array_equal(got, np.zeros([batch_size, 3]))


@every_aggregator
def test_a_user_without_behaviours_gets_zeros(make):
    behaviours, mask, query = example()
    np.testing.assert_array_equal(make()(behaviours, mask, query)[-1], np.zeros(3))


@every_aggregator
def test_gradients(make):
    behaviours, mask, query = example(8)
    behaviours, query = tf.Variable(behaviours), tf.Variable(query)
    aggregator = make()
    target = tf.random.stateless_normal([8, 3], [1, 2])

    def loss():
        return tf.reduce_mean((aggregator(behaviours, mask, query) - target) ** 2)

    loss()
    inputs = [behaviours, query] if aggregator.needs_query else [behaviours]
    # Under a softmax the score's bias moves all weights alike and so has no gradient.
    weights = [
        w
        for w in aggregator.trainable_variables
        if not (aggregator.get_config().get("softmax") and "score/bias" in w.name)
    ]
    assert_gradients_match(loss, inputs + weights)


@every_aggregator
def test_config_round_trip(make):
    behaviours, mask, query = example()
    aggregator = make()
    want = aggregator(behaviours, mask, query)
    again = keras.layers.deserialize(keras.layers.serialize(aggregator))
    again(behaviours, mask, query)
    again.set_weights(aggregator.get_weights())
    np.testing.assert_array_equal(again(behaviours, mask, query), want)


def test_sum_by_hand():
    behaviours = tf.constant([[[1.0, 2.0], [10.0, 20.0], [5.0, 5.0]]])
    got = SumPooling()(behaviours, tf.constant([[True, False, True]]))
    np.testing.assert_array_equal(got, [[6.0, 7.0]])


def test_attention_by_hand():
    pooling = AttentivePooling(hidden=())
    behaviours = tf.constant([[[1.0, 2.0], [3.0, 0.0], [9.0, 9.0]]])
    mask = tf.constant([[True, True, False]])
    query = tf.constant([[2.0, -1.0]])
    pooling(behaviours, mask, query)
    # The score reads [e, q, e * q, e - q]: here e_1 + 2 q_1 + 3 (e_2 q_2) + 4 (e_1 - q_1) + 1.
    kernel = np.zeros([8, 1])
    kernel[[0, 2, 5, 6], 0] = [1.0, 2.0, 3.0, 4.0]
    pooling.set_weights([kernel, np.array([1.0])])
    # e = (1, 2): 1 + 4 + 3 * -2 + 4 * -1 + 1 = -4.  e = (3, 0): 3 + 4 + 0 + 4 + 1 = 12.
    np.testing.assert_allclose(pooling.weights_of(behaviours, mask, query), [[-4.0, 12.0, 0.0]])
    np.testing.assert_allclose(pooling(behaviours, mask, query), [[-4 + 36, -8.0]])


def test_softmax_weights_add_up_to_one():
    behaviours, mask, query = example()
    pooling = AttentivePooling(softmax=True)
    pooling(behaviours, mask, query)
    weights = pooling.weights_of(tf.constant(behaviours), mask, tf.constant(query)).numpy()
    np.testing.assert_allclose(weights.sum(axis=1), [1, 1, 1, 0], rtol=1e-6)
    assert np.all(weights[~mask] == 0) and np.all(weights[mask] > 0)


def test_one_behaviour_with_softmax_is_returned_as_it_is():
    behaviours, _, query = example(2, 1)
    got = AttentivePooling(softmax=True)(behaviours, np.ones([2, 1], bool), query)
    np.testing.assert_allclose(got, behaviours[:, 0], rtol=1e-6)


def test_attention_depends_on_the_query():
    behaviours, mask, query = example()
    pooling = AttentivePooling()
    one, other = pooling(behaviours, mask, query), pooling(behaviours, mask, -query)
    assert not np.allclose(one[:-1], other[:-1], atol=1e-3)


def test_bad_input_is_named():
    behaviours, mask, _ = example()
    with pytest.raises(ConfigError, match="AttentivePooling needs the ad's image as query"):
        AttentivePooling()(behaviours, mask)
    with pytest.raises(ConfigError, match="aggregator is 'max'; use 'sum' or 'attentive', or a"):
        make_aggregator("max")
    assert isinstance(make_aggregator(None), SumPooling)
    assert isinstance(make_aggregator("attentive"), AttentivePooling)
