"""Mutual learning against hand-written gradients, and with one model against ordinary training."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from amstf.errors import ConfigError
from amstf.optimizers import Adam
from amstf.schema import Field, Schema
from models import (
    AGREEMENTS,
    Dicm,
    Din,
    EmbeddingMlp,
    IdRegularization,
    LogisticRegression,
    MutualLearning,
    build,
    image_tower,
)
from tests.helpers import CLICK_SCHEMA, assert_weights_survive, random_batch, tensors

PRICES = Schema((Field("price", "dense"), Field("click", "label")))
TWO_LABELS = Schema((*CLICK_SCHEMA.fields, Field("buy", "label")))
STARTS = {"a": 0.5, "b": -1.0, "c": 2.0}


class _Slope(keras.Model):
    """p = sigmoid(w x), so that a person can differentiate it."""

    def __init__(self, start):
        super().__init__()
        self.w = self.add_weight("w", [], initializer=keras.initializers.Constant(start))

    def call(self, inputs):
        return tf.sigmoid(self.w * inputs["price"])


def _one_step(model, x, y, weights=None):
    inputs = {"price": x[:, None].astype(np.float32)}
    data = (inputs, y[:, None].astype(np.float32), weights)[: 2 if weights is None else 3]
    return model.fit(tf.data.Dataset.from_tensors(data), verbose=0)


def _gradient(agreement, x, z, p, z_other, p_other):
    """d/dw of the mean distance, written by hand; z are logits."""
    return {
        "squared": np.mean(2 * (p - p_other) * p * (1 - p) * x),
        "logit": np.mean(2 * (z - z_other) * x),
        "kl": np.mean((p - p_other) * x),
    }[agreement]


@pytest.mark.parametrize("agreement", AGREEMENTS)
@pytest.mark.parametrize("x", [[0.3, -1.2, 2.0, 0.7], [0.9]])
def test_one_step_by_hand(agreement, x):
    x = np.array(x)
    y = (np.arange(len(x)) % 2).astype(float)
    model = MutualLearning({n: _Slope(w) for n, w in STARTS.items()}, agreement, weight=0.7)
    model.compile({"a": keras.optimizers.SGD(1.0), "b": "sgd", "c": keras.optimizers.SGD(0.1)})
    history = _one_step(model, x, y).history
    z = {name: w * x for name, w in STARTS.items()}
    p = {name: 1 / (1 + np.exp(-values)) for name, values in z.items()}
    for name, rate in (("a", 1.0), ("b", 0.01), ("c", 0.1)):
        others = [other for other in STARTS if other != name]
        gradient = np.mean((p[name] - y) * x) + 0.7 / 2 * sum(
            _gradient(agreement, x, z[name], p[name], z[other], p[other]) for other in others
        )
        got = model.members[name].w.numpy()
        np.testing.assert_allclose(got, STARTS[name] - rate * gradient, rtol=1e-4)
        cross_entropy = -np.mean(y * np.log(p[name]) + (1 - y) * np.log(1 - p[name]))
        np.testing.assert_allclose(history[f"{name}_loss"], cross_entropy, rtol=1e-5)
    if agreement == "squared":
        pairs = [np.mean((p[a] - p[b]) ** 2) for a in p for b in p if a != b]
        np.testing.assert_allclose(history["agreement"], np.mean(pairs), rtol=1e-5)


def test_the_weight_grows_and_samples_have_weights():
    x, y = np.array([1.0, 2.0]), np.array([1.0, 0.0])
    model = MutualLearning({"a": _Slope(1.0), "b": _Slope(-1.0)}, weight=3.0, warm_up_steps=2)
    model.compile("sgd")
    rate, weights = 0.01, np.array([0.5, 2.0])
    w = {"a": 1.0, "b": -1.0}
    for factor in (0.0, 1.5, 3.0, 3.0):
        _one_step(model, x, y, weights)
        p = {name: 1 / (1 + np.exp(-v * x)) for name, v in w.items()}
        for name, other in (("a", "b"), ("b", "a")):
            own = np.mean(weights * (p[name] - y) * x)
            pull = 2 * (p[name] - p[other]) * p[name] * (1 - p[name]) * x
            w[name] -= rate * (own + factor * np.mean(weights * pull))
        for name, member in model.members.items():
            np.testing.assert_allclose(member.w.numpy(), w[name], rtol=1e-5)


def _click_models(schema=CLICK_SCHEMA, rule=None):
    # By class, by seed, and one that sees images among those that see ids.
    models, e = {}, image_tower((4, 3))
    table = keras.Sequential([keras.layers.Lambda(lambda ids: tf.one_hot(ids, 5)), e])
    for seed, (name, make) in enumerate(
        {
            "din": lambda: Din(schema, hidden=(6,)),
            "mlp": lambda: EmbeddingMlp(schema, hidden=(8, 4), embeddings_regularizer=rule),
            "mlp_2": lambda: EmbeddingMlp(schema, hidden=(8, 4)),
            "dicm": lambda: Dicm(schema, image_embedding=table, hidden=(6,)),
            "lr": lambda: LogisticRegression(schema),
        }.items()
    ):
        keras.utils.set_random_seed(seed)
        models[name] = build(make(), schema)
    return models


def _data(schema=CLICK_SCHEMA, batch=8, steps=6):
    features = tensors(random_batch(schema, batch * steps, 4))
    click = tf.cast(features["user"] % 2, tf.float32)[:, None]
    target = {"click": click, "buy": 1 - click} if len(schema.labels) > 1 else click
    return tf.data.Dataset.from_tensor_slices((features, target)).batch(batch)


def test_one_model_is_ordinary_training_to_the_bit():
    rule = IdRegularization(l2=0.1)
    weights = []
    for is_mutual in (True, False):
        model = member = _click_models(rule=rule)["mlp"]
        if is_mutual:
            model = MutualLearning({"mlp": member}, weight=9.0)
        model.compile(Adam(0.01), "binary_crossentropy")
        model.fit(_data(), epochs=2, verbose=0)
        weights.append(member.get_weights())
    for mutual, alone in zip(*weights, strict=True):
        np.testing.assert_array_equal(mutual, alone)


@pytest.mark.slow
def test_without_weight_each_model_is_trained_as_alone_and_only_one_is_regularised():
    # Every kind at once: own optimizers with schedules, embeddings and regularisation losses.
    rule = IdRegularization(l2=0.1)
    rates = {name: 0.01 / (k + 1) for k, name in enumerate(_click_models())}
    decayed = keras.optimizers.schedules.ExponentialDecay(0.02, 3, 0.5)
    made = lambda name: Adam(decayed if name == "lr" else rates[name])  # noqa: E731
    together = MutualLearning(_click_models(rule=rule), weight=0.0)
    together.compile({name: made(name) for name in rates}, metrics=["AUC"])
    logs = together.fit(_data(), epochs=2, verbose=0).history
    for name, member in _click_models(rule=rule).items():
        member.compile(made(name), "binary_crossentropy", metrics=["AUC"])
        alone = member.fit(_data(), epochs=2, verbose=0).history
        np.testing.assert_allclose(logs[f"{name}_loss"], alone["loss"], rtol=1e-5)
        np.testing.assert_allclose(logs[f"{name}_auc"], alone["auc"], rtol=1e-5)
        got = together.members[name].get_weights()
        for mutual, want in zip(got, member.get_weights(), strict=True):
            np.testing.assert_allclose(mutual, want, atol=1e-6)
    measured = together.evaluate(_data(), return_dict=True, verbose=0)
    assert set(measured) == {"loss", "agreement", "auc"} | {
        f"{name}_{metric}" for name in rates for metric in ("loss", "auc")
    }
    assert measured["mlp_loss"] < logs["mlp_loss"][0]


def test_agreement_brings_models_together_with_several_labels_and_batch_size_1():
    distances = {}
    for weight in (0.0, 30.0):
        members = _click_models(TWO_LABELS)
        model = MutualLearning({n: members[n] for n in ("mlp", "lr")}, weight=weight)
        model.compile(Adam(0.01))
        model.fit(_data(TWO_LABELS, batch=1, steps=24), epochs=2, verbose=0)
        inputs = next(iter(_data(TWO_LABELS)))[0]
        each = model.predict_members(inputs)
        for label, mean in model(inputs).items():
            values = np.stack([predictions[label].numpy() for predictions in each.values()])
            np.testing.assert_allclose(mean, values.mean(0), atol=1e-6)
            distances[weight, label] = values.std(0).mean()
    for label in ("click", "buy"):
        assert distances[30.0, label] < 0.7 * distances[0.0, label], distances


def test_weights_and_configuration_survive(tmp_path):
    seeds = iter(range(100, 200))

    def make():
        keras.utils.set_random_seed(next(seeds))
        return MutualLearning({name: EmbeddingMlp(CLICK_SCHEMA, (6,)) for name in ("a", "b")})

    batch = tensors(random_batch(CLICK_SCHEMA, 4, 3))
    assert_weights_survive(make, batch, str(tmp_path))
    model = MutualLearning(make().members, "kl", 0.5, 7)
    want = model(batch)
    again = MutualLearning.from_config(model.get_config())
    again(batch)
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again(batch), want)
    assert (again.agreement, again.weight, again.warm_up_steps) == ("kl", 0.5, 7)
    assert list(again.members) == ["a", "b"]
    assert again.labels == ("click",)
    model.save(tmp_path / "saved", include_optimizer=False)
    served = tf.saved_model.load(str(tmp_path / "saved"))
    np.testing.assert_allclose(served(batch, training=False), want, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"members": {}}, "members is empty"),
        ({"members": {"a b": _Slope(1.0)}}, "members has the name 'a b'"),
        ({"agreement": "cosine"}, "agreement is 'cosine'; use one of squared, logit, kl"),
        ({"weight": -1.0}, "weight is -1.0"),
        ({"weight": float("nan")}, "weight is nan"),
        ({"warm_up_steps": 0.5}, "warm_up_steps is 0.5"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ConfigError, match=message):
        MutualLearning(**{"members": {"a": _Slope(1.0)}, **arguments})


def test_models_that_do_not_go_together():
    mlp = EmbeddingMlp(CLICK_SCHEMA)
    with pytest.raises(ConfigError, match="'a' and 'b' share the layer"):
        MutualLearning({"a": mlp, "b": Din(CLICK_SCHEMA, mlp=mlp.mlp)})
    with pytest.raises(ConfigError, match="'a' predicts click and 'b' click, buy; give all the sa"):
        MutualLearning({"a": mlp, "b": Din(TWO_LABELS)})
    model = MutualLearning({"a": _Slope(1.0), "b": _Slope(2.0)})
    with pytest.raises(ConfigError, match="optimizer is for a; wanted one for each of a, b"):
        model.compile({"a": "sgd"})
    same = keras.optimizers.SGD()
    with pytest.raises(ConfigError, match="the same object for a and b"):
        model.compile({"a": same, "b": same})
