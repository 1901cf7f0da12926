"""Layers of field interactions: numbers by hand, gradients, saving, bad arguments."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from amstf.errors import ConfigError
from models import (
    BilinearInteraction,
    CrossMixture,
    CrossNetwork,
    CrossNetworkV2,
    FactorizationMachine,
    InnerProducts,
    OuterProduct,
    Senet,
)
from tests.helpers import assert_gradients_match

# Three fields of width 2; the pairs are (a, b), (a, c), (b, c).
VECTORS = tf.constant([[[1.0, 2.0], [3.0, -1.0], [0.5, 4.0]]])
X = tf.constant([[1.0, 2.0]])

LAYERS = {
    "fm": (FactorizationMachine, {}, VECTORS),
    "cross": (CrossNetwork, {"layers": 2}, X),
    "cross_v2": (CrossNetworkV2, {"layers": 2}, X),
    "cross_v2_low_rank": (CrossNetworkV2, {"layers": 2, "rank": 1}, X),
    "mixture": (CrossMixture, {"layers": 2, "rank": 3, "experts": 2}, X),
    "inner": (InnerProducts, {}, VECTORS),
    "outer": (OuterProduct, {}, VECTORS),
    "senet": (Senet, {"reduction": 1}, VECTORS),
    "bilinear_all": (BilinearInteraction, {"kind": "all"}, VECTORS),
    "bilinear_each": (BilinearInteraction, {"kind": "each"}, VECTORS),
    "bilinear_interaction": (BilinearInteraction, {"kind": "interaction"}, VECTORS),
}


def with_weights(layer, inputs, **values):
    layer(inputs)
    for weight in layer.weights:
        found = [v for name, v in values.items() if f"{name}:" in weight.name.replace("/", "_")]
        weight.assign(found[0])
    return layer


def test_factorization_machine_by_hand():
    # <a, b> = 3 - 2, <a, c> = 0.5 + 8, <b, c> = 1.5 - 4.
    np.testing.assert_allclose(FactorizationMachine()(VECTORS), [[1 + 8.5 - 2.5]])
    np.testing.assert_allclose(InnerProducts()(VECTORS), [[1, 8.5, -2.5]])


def test_outer_product_by_hand():
    # The sum is (4.5, 5).
    np.testing.assert_allclose(OuterProduct()(VECTORS), [[20.25, 22.5, 22.5, 25]])


def test_cross_network_by_hand():
    layer = with_weights(
        CrossNetwork(2), X, kernel_0=[[1.0], [-1.0]], bias_0=[0.5, 0.0],
        kernel_1=[[2.0], [0.0]], bias_1=[0.0, 1.0],
    )  # fmt: skip
    # x1 = (1, 2) * (1 - 2) + (0.5, 0) + (1, 2) = (0.5, 0);  x2 = (1, 2) * 1 + (0, 1) + x1.
    np.testing.assert_allclose(layer(X), [[1.5, 3.0]])


def test_cross_network_v2_by_hand():
    full = with_weights(
        CrossNetworkV2(1), X, wide_0_kernel=[[1.0, 0.0], [1.0, -1.0]], wide_0_bias=[0.0, 0.5]
    )
    # W x + b = (1 + 2, -2 + 0.5);  x0 * that = (3, -3);  + x.
    np.testing.assert_allclose(full(X), [[4, -1]])
    low = with_weights(
        CrossNetworkV2(1, rank=1), X, narrow_0_kernel=[[1.0], [1.0]],
        wide_0_kernel=[[2.0, -1.0]], wide_0_bias=[0.0, 1.0],
    )  # fmt: skip
    # V x = 3, U 3 + b = (6, -2);  x0 * that = (6, -4);  + x.
    np.testing.assert_allclose(low(X), [[7, -2]])


def test_cross_mixture_is_the_formula():
    layer = CrossMixture(1, rank=3, experts=2)
    x = tf.random.stateless_normal([5, 4], [1, 2]).numpy()
    layer(x)
    layer.set_weights([np.random.default_rng(3).normal(size=w.shape) for w in layer.weights])
    weights = {w.name.split("_0")[0].split("/")[-1]: w.numpy() for w in layer.weights}
    scores = np.exp(x @ weights["gate"])
    gates = scores / scores.sum(1, keepdims=True)
    want = x.copy()
    for k in range(2):
        v = weights["v"][:, 3 * k : 3 * k + 3]
        inner = np.tanh(np.tanh(x @ v) @ weights["c"][k])
        want += gates[:, k : k + 1] * x * (inner @ weights["u"][k] + weights["bias"])
    np.testing.assert_allclose(layer(x), want, rtol=1e-4, atol=1e-5)


def test_senet_by_hand():
    layer = with_weights(
        Senet(3), VECTORS, squeeze=[[1.0], [0.0], [2.0]], excite=[[1.0, -1.0, 2.0]]
    )
    # Means 1.5, 1, 2.25 -> 1.5 + 4.5 = 6 -> (6, 0, 12).
    np.testing.assert_allclose(layer(VECTORS), [[[6, 12], [0, 0], [6, 48]]])


@pytest.mark.parametrize("kind", ["all", "each", "interaction"])
def test_bilinear_by_hand(kind):
    swap, twice, negative = [[0.0, 1.0], [1.0, 0.0]], [[2.0, 0.0], [0.0, 2.0]], -np.eye(2)
    layer = BilinearInteraction(kind)
    layer(VECTORS)
    if kind == "all":
        layer.set_weights([np.array(swap)])
        want = [[2 * 3, 1 * -1], [2 * 0.5, 1 * 4], [-1 * 0.5, 3 * 4]]
    elif kind == "each":
        layer.set_weights([np.stack([swap, twice])])
        want = [[2 * 3, 1 * -1], [2 * 0.5, 1 * 4], [6 * 0.5, -2 * 4]]
    else:
        layer.set_weights([np.stack([swap, twice, negative])])
        want = [[2 * 3, 1 * -1], [2 * 0.5, 4 * 4], [-3 * 0.5, 1 * 4]]
    np.testing.assert_allclose(layer(VECTORS), [want])


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_config_and_saving(name, tmp_path):
    kind, arguments, one = LAYERS[name]
    keras.utils.set_random_seed(5)
    layer = kind(**arguments)
    inputs = tf.Variable(tf.random.stateless_normal([4, *one.shape[1:]], [3, 4]))
    target = tf.random.stateless_normal(layer(inputs).shape, [5, 6])
    loss = lambda: tf.reduce_mean((layer(inputs) - target) ** 2)  # noqa: E731
    assert_gradients_match(loss, [inputs, *layer.trainable_variables])
    # A batch of one is a row of a batch of four, traced with B unknown too.
    want = layer(inputs).numpy()
    signature = [tf.TensorSpec([None, *one.shape[1:]])]
    traced = tf.function(layer.call, input_signature=signature)
    np.testing.assert_allclose(layer(inputs[:1]), want[:1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(traced(inputs[:1]), want[:1], rtol=1e-5, atol=1e-6)
    again = kind.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    model = keras.Sequential([keras.Input(one.shape[1:]), layer])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(inputs), want, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CrossNetwork(0), "layers is 0; give a whole number of at least 1"),
        (lambda: CrossNetworkV2(rank=-1), "rank is -1; give a whole number of at least 0"),
        (lambda: CrossMixture(experts=0), "experts is 0"),
        (lambda: Senet(0), "reduction is 0"),
        (lambda: BilinearInteraction("some"), "kind is 'some'; use all, each, interaction"),
        (lambda: BilinearInteraction()(VECTORS[:, :1]), "of pairs of fields; got 1 field"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
