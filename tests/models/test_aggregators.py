"""What every aggregator keeps to, and each one's numbers by hand."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from amstf.errors import ConfigError
from models import (
    AttentivePooling,
    ConcatPooling,
    Dice,
    MaxPooling,
    MeanPooling,
    MultiQueryAttentivePooling,
    SumPooling,
)
from models.aggregators import AGGREGATORS, make_aggregator
from tests.helpers import assert_gradients_match

MAKERS = [
    pytest.param(SumPooling, id="sum"),
    pytest.param(MaxPooling, id="max"),
    pytest.param(MeanPooling, id="mean"),
    pytest.param(lambda: ConcatPooling(5), id="concat"),
    pytest.param(AttentivePooling, id="attentive"),
    pytest.param(lambda: AttentivePooling((5,), "tanh", softmax=True), id="softmax"),
    pytest.param(lambda: AttentivePooling((), softmax=False), id="linear"),
    pytest.param(lambda: AttentivePooling((6, 4), "dice"), id="dice"),
    pytest.param(MultiQueryAttentivePooling, id="multi_query"),
]
WIDTHS = {ConcatPooling: 15, MultiQueryAttentivePooling: 6}
every_aggregator = pytest.mark.parametrize("make", MAKERS)
every_unordered_aggregator = pytest.mark.parametrize("make", MAKERS[:3] + MAKERS[4:])


def width_of(aggregator):
    return WIDTHS.get(type(aggregator), 3)


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
    ad_ids = rng.normal(size=(batch_size, 4)).astype(np.float32)
    return behaviours, mask, query, ad_ids


@every_aggregator
def test_what_stands_in_the_padding_has_no_influence(make):
    behaviours, mask, query, ad_ids = example()
    aggregator = make()
    want = aggregator(behaviours, mask, query, ad_ids).numpy()
    assert np.all(np.any(want[:-1] != 0, axis=1))
    for filling in (1e30, np.nan, np.inf):
        filled = tf.constant(np.where(mask[:, :, None], behaviours, np.float32(filling)))
        with tf.GradientTape() as tape:
            tape.watch(filled)
            got = aggregator(filled, mask, query, ad_ids)
        np.testing.assert_array_equal(got, want)
        gradient = tape.gradient(got, filled).numpy()
        assert np.all(gradient[~mask] == 0) and np.all(np.isfinite(gradient))
        assert np.any(gradient[mask] != 0)


@every_aggregator
def test_longer_padding_has_no_influence(make):
    behaviours, mask, query, ad_ids = example()
    aggregator = make()
    longer = np.pad(behaviours, [(0, 0), (0, 5), (0, 0)])
    np.testing.assert_allclose(
        aggregator(longer, np.pad(mask, [(0, 0), (0, 5)]), query, ad_ids),
        aggregator(behaviours, mask, query, ad_ids),
        rtol=1e-5,
        atol=1e-6,
    )


@every_unordered_aggregator
def test_order_has_no_influence(make):
    behaviours, mask, query, ad_ids = example()
    aggregator = make()
    order = np.random.default_rng(3).permutation(behaviours.shape[1])
    np.testing.assert_allclose(
        aggregator(behaviours[:, order], mask[:, order], query, ad_ids),
        aggregator(behaviours, mask, query, ad_ids),
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
            tf.TensorSpec([None, 4]),
        ],
    )
    inputs = (
        tf.ones([batch_size, length, 3]),
        tf.ones([batch_size, length], tf.bool),
        tf.ones([batch_size, 3]),
        tf.ones([batch_size, 4]),
    )
    got = traced(*inputs)
    width = width_of(aggregator)
    assert got.shape == (batch_size, width)
    assert traced.get_concrete_function().output_shapes.as_list() == [None, width]
    assert np.all(np.isfinite(got))
    if length == 0:
        np.testing.assert_array_equal(got, np.zeros([batch_size, width]))
    with tf.GradientTape() as tape:
        tape.watch(inputs[0])
        loss = tf.reduce_sum(aggregator(*inputs, training=True) ** 2)
    assert np.all(np.isfinite(tape.gradient(loss, inputs[0])))


@every_aggregator
def test_a_user_without_behaviours_gets_zeros(make):
    behaviours, mask, query, ad_ids = example()
    behaviours, aggregator = tf.constant(behaviours), make()
    with tf.GradientTape() as tape:
        tape.watch(behaviours)
        got = aggregator(behaviours, mask, query, ad_ids, training=True)
    np.testing.assert_array_equal(got[-1], np.zeros(width_of(aggregator)))
    gradient = tape.gradient(got, [behaviours, *aggregator.trainable_variables])
    assert all(np.all(np.isfinite(part)) for part in gradient)
    np.testing.assert_array_equal(gradient[0][-1], np.zeros([6, 3]))


@every_aggregator
def test_gradients(make):
    behaviours, mask, query, ad_ids = example(8)
    behaviours, query, ad_ids = map(tf.Variable, (behaviours, query, ad_ids))
    aggregator = make()
    target = tf.random.stateless_normal([8, width_of(aggregator)], [1, 2])

    def loss():
        # A sine keeps the loss small, where float32 resolves what a step of a weight changes.
        return 8 * tf.reduce_mean(tf.sin(aggregator(behaviours, mask, query, ad_ids) - target))

    loss()
    inputs = [behaviours]
    inputs += [query] if aggregator.needs_query else []
    inputs += [ad_ids] if aggregator.needs_ad_ids else []
    # Under a softmax the score's bias moves all weights alike and so has no gradient.
    weights = [
        w
        for w in aggregator.trainable_variables
        if not (aggregator.get_config().get("softmax") and "score/bias" in w.name)
    ]
    assert_gradients_match(loss, inputs + weights)


@every_aggregator
def test_config_round_trip(make):
    behaviours, mask, query, ad_ids = example()
    aggregator = make()
    want = aggregator(behaviours, mask, query, ad_ids)
    again = keras.layers.deserialize(keras.layers.serialize(aggregator))
    again(behaviours, mask, query, ad_ids)
    again.set_weights(aggregator.get_weights())
    np.testing.assert_array_equal(again(behaviours, mask, query, ad_ids), want)


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
    behaviours, mask, query, _ = example()
    pooling = AttentivePooling(softmax=True)
    pooling(behaviours, mask, query)
    weights = pooling.weights_of(tf.constant(behaviours), mask, tf.constant(query)).numpy()
    np.testing.assert_allclose(weights.sum(axis=1), [1, 1, 1, 0], rtol=1e-6)
    assert np.all(weights[~mask] == 0) and np.all(weights[mask] > 0)


def test_one_behaviour_with_softmax_is_returned_as_it_is():
    behaviours, _, query, _ = example(2, 1)
    got = AttentivePooling(softmax=True)(behaviours, np.ones([2, 1], bool), query)
    np.testing.assert_allclose(got, behaviours[:, 0], rtol=1e-6)


def test_attention_depends_on_the_query():
    behaviours, mask, query, _ = example()
    pooling = AttentivePooling()
    one, other = pooling(behaviours, mask, query), pooling(behaviours, mask, -query)
    assert not np.allclose(one[:-1], other[:-1], atol=1e-3)


@pytest.mark.parametrize("hidden", [(), (4,), (5, 3)])
def test_attention_reads_the_pairs_that_its_docstring_says(hidden):
    behaviours, mask, query, _ = example()
    pooling = AttentivePooling(hidden)
    pooling(behaviours, mask, query)
    rng = np.random.default_rng(5)
    weights = [rng.normal(size=w.shape).astype(np.float32) for w in pooling.weights]
    pooling.set_weights(weights)
    queries = np.broadcast_to(query[:, None], behaviours.shape)
    values = np.concatenate(
        [behaviours, queries, behaviours * queries, behaviours - queries], axis=-1
    )
    for kernel, bias, slope in zip(weights[0:-2:3], weights[1:-2:3], weights[2:-2:3], strict=True):
        values = values @ kernel + bias
        values = np.where(values > 0, values, slope * values)
    want = np.where(mask, (values @ weights[-2] + weights[-1])[..., 0], 0)
    np.testing.assert_allclose(
        pooling.weights_of(behaviours, mask, query), want, rtol=1e-4, atol=1e-5
    )


def test_attention_keeps_the_names_that_checkpoints_of_earlier_versions_have(tmp_path):
    behaviours, mask, query, _ = example()
    pooling = AttentivePooling((4,))
    pooling(behaviours, mask, query)
    path = tf.train.Checkpoint(pooling).save(str(tmp_path / "checkpoint"))
    shapes = tf.train.load_checkpoint(path).get_variable_to_shape_map()
    found = {
        name.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE"): shape
        for name, shape in shapes.items()
        if not name.startswith(("save_counter", "_CHECKPOINTABLE"))
    }
    assert found == {
        "_mlp/_steps/0/kernel": [12, 4],
        "_mlp/_steps/0/bias": [4],
        "_mlp/_steps/1/alpha": [1, 4],
        "_score/kernel": [4, 1],
        "_score/bias": [1],
    }


def test_max_by_hand():
    behaviours = tf.constant([[[1.0, -2.0], [0.5, -1.0], [5.0, 5.0]], [[9.0, 9.0]] * 3])
    mask = tf.constant([[True, True, False], [False] * 3])
    with tf.GradientTape() as tape:
        tape.watch(behaviours)
        got = MaxPooling()(behaviours, mask)
    np.testing.assert_array_equal(got, [[1.0, -1.0], [0.0, 0.0]])
    want = [[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], [[0.0, 0.0]] * 3]
    np.testing.assert_array_equal(tape.gradient(got, behaviours), want)


def test_mean_by_hand():
    behaviours = tf.constant([[[1.0, -2.0], [0.5, -1.0], [5.0, 5.0]], [[9.0, 9.0]] * 3])
    mask = tf.constant([[True, True, False], [False] * 3])
    with tf.GradientTape() as tape:
        tape.watch(behaviours)
        got = MeanPooling()(behaviours, mask)
    np.testing.assert_array_equal(got, [[0.75, -1.5], [0.0, 0.0]])
    want = [[[0.5, 0.5], [0.5, 0.5], [0.0, 0.0]], [[0.0, 0.0]] * 3]
    np.testing.assert_array_equal(tape.gradient(got, behaviours), want)


def test_concat_by_hand():
    behaviours = tf.constant([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], [[7.0, 8.0]] * 3])
    mask = tf.constant([[True, True, True], [True, False, False]])
    want = [[1.0, 2.0, 3.0, 4.0], [7.0, 8.0, 0.0, 0.0]]
    np.testing.assert_array_equal(ConcatPooling(2)(behaviours, mask), want)
    longer = np.pad(want, [(0, 0), (0, 4)])
    longer[0, 4:6] = 5.0, 6.0
    np.testing.assert_array_equal(ConcatPooling(4)(behaviours, mask), longer)


def test_multi_query_by_hand():
    pooling = MultiQueryAttentivePooling(hidden=())
    behaviours = tf.constant([[[1.0, 2.0], [3.0, 0.0], [9.0, 9.0]]])
    mask, query = tf.constant([[True, True, False]]), tf.constant([[2.0, -1.0]])
    ad_ids = tf.constant([[1.0, 1.0, 0.5]])
    pooling(behaviours, mask, query, ad_ids)
    by_image, by_ids = np.zeros([8, 1]), np.zeros([8, 1])
    by_image[0] = 1.0  # a = e_1
    by_ids[[2, 4], 0] = 1.0, 2.0  # b = q_1 + 2 e_1 q_1 with q = P i
    to_query = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 0.0]])  # P i = (1 + 2, 0)
    named = {w.name: w for w in pooling.weights}
    for name, weight in named.items():
        if "query_of_ids" in name:
            weight.assign(to_query)
        elif "kernel" in name:
            weight.assign(by_image if "by_image" in name else by_ids)
    # a: 1 and 3, so (1 + 9, 2).  b: 3 + 6 = 9 and 3 + 18 = 21, so (9 + 63, 18).
    got = pooling(behaviours, mask, query, ad_ids)
    np.testing.assert_allclose(got, [[10.0, 2.0, 72.0, 18.0]])


def test_each_channel_of_multi_query_follows_its_own_query():
    behaviours, mask, query, ad_ids = example()
    pooling = MultiQueryAttentivePooling()
    want = pooling(behaviours, mask, query, ad_ids)
    other_image = pooling(behaviours, mask, -query, ad_ids)
    other_ids = pooling(behaviours, mask, query, -ad_ids)
    np.testing.assert_array_equal(other_image[:, 3:], want[:, 3:])
    np.testing.assert_array_equal(other_ids[:, :3], want[:, :3])
    assert not np.allclose(other_image[:-1, :3], want[:-1, :3], atol=1e-3)
    assert not np.allclose(other_ids[:-1, 3:], want[:-1, 3:], atol=1e-3)


def test_padding_has_no_influence_on_the_statistics_of_dice():
    behaviours, mask, query, _ = example()
    longer = np.pad(behaviours, [(0, 0), (0, 5), (0, 0)], constant_values=1e3)
    longer_mask = np.pad(mask, [(0, 0), (0, 5)])
    results = []
    for inputs in ((behaviours, mask, query), (longer, longer_mask, query)):
        keras.utils.set_random_seed(3)
        pooling = AttentivePooling((4,), "dice")
        results.append([pooling(*inputs, training=True).numpy(), *pooling.get_weights()])
    (dice,) = (step for step in pooling._mlp._steps if isinstance(step, Dice))
    assert np.any(dice.moving_mean.numpy() != 0)
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_bad_input_is_named():
    behaviours, mask, query, _ = example()
    with pytest.raises(ConfigError, match="AttentivePooling needs the ad's image as query"):
        AttentivePooling()(behaviours, mask)
    with pytest.raises(ConfigError, match="MultiQueryAttentivePooling needs the ad's ID embedd"):
        MultiQueryAttentivePooling()(behaviours, mask, query)
    with pytest.raises(ConfigError, match="behaviours of width 3 and a query of width 2; embed"):
        AttentivePooling()(behaviours, mask, query[:, :2])
    with pytest.raises(ConfigError, match="aggregator is 'median'; use one of 'sum', 'mean', 'm"):
        make_aggregator("median")
    with pytest.raises(ConfigError, match="'concat' needs to know how many behaviours to take"):
        make_aggregator("concat")
    with pytest.raises(ConfigError, match="length is 0; give a whole number of at least 1"):
        ConcatPooling(0)
    assert isinstance(make_aggregator(None), SumPooling)
    assert make_aggregator("concat", 7).length == 7
    made = [type(make_aggregator(name, 2)) for name in AGGREGATORS]
    assert made == [
        SumPooling, MeanPooling, MaxPooling, ConcatPooling, AttentivePooling,
        MultiQueryAttentivePooling, AttentivePooling, MultiQueryAttentivePooling,
    ]  # fmt: skip
    of_softmax = [
        name for name in AGGREGATORS if make_aggregator(name, 2).get_config().get("softmax")
    ]
    assert of_softmax == ["attentive_mean", "multi_query_mean"]


@pytest.mark.parametrize("make", [AttentivePooling, MultiQueryAttentivePooling])
@pytest.mark.parametrize("arguments", [{}, {"softmax": True}, {"hidden": (4, 3)}, {"hidden": ()}])
@pytest.mark.parametrize("length", [0, 1, 5])
def test_one_user_is_as_good_as_each_sample_its_own(make, arguments, length):
    pooling = make(**arguments)
    rng = np.random.default_rng(1)
    of_user, queries, ids = (
        tf.constant(rng.normal(size=shape), tf.float32)
        for shape in ([1, length, 3], [4, 3], [4, 2])
    )
    mask = tf.constant(rng.random([1, length]) < 0.7)
    of_each = [tf.repeat(values, 4, axis=0) for values in (of_user, mask)]
    pooling(*of_each, queries, ids)  # Makes the weights.
    pooling.set_weights([rng.normal(size=w.shape) for w in pooling.get_weights()])

    def gradients(values, mask, queries, ids):
        weights = pooling.trainable_variables
        with tf.GradientTape() as tape:
            tape.watch([queries, ids])
            pooled = pooling(values, mask, queries, ids)
            loss = tf.reduce_sum(pooled**2)
        return pooled, tape.gradient(loss, [queries, *weights], unconnected_gradients="zero")

    pooled, expected = gradients(*of_each, queries, ids)
    one, got = gradients(of_user, mask, queries, ids)
    np.testing.assert_allclose(one, pooled, rtol=1e-5, atol=1e-6)
    for left, right in zip(got, expected, strict=True):
        size = np.max(np.abs(right), initial=1)
        np.testing.assert_allclose(left / size, right / size, rtol=1e-4, atol=1e-5)


def test_one_pass_over_the_pairs_is_what_the_layers_give():
    pooling = AttentivePooling()
    behaviours, mask, query = tf.random.normal([3, 4, 5]), tf.ones([3, 4], tf.bool), tf.ones([3, 5])
    pooling(behaviours, mask, query)
    rng = np.random.default_rng(2)
    pooling.set_weights([rng.normal(size=w.shape) for w in pooling.get_weights()])
    np.testing.assert_allclose(
        pooling._scores_of(behaviours, mask, query),
        pooling._of_layers(behaviours, mask, query),
        rtol=1e-4,
        atol=1e-5,
    )
