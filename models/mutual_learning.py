"""Mutual learning: several click models that are trained together and pull at each other."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from amstf.errors import ConfigError
from models.exact_evaluation import ExactEvaluation
from models.keras_names import PACKAGE

Predictions = Any
"""[B, 1] of one label, or a dict of label -> [B, 1]."""

# Probabilities are kept so far from 0 and 1 where a logarithm is taken, as Keras' losses do.
_EPSILON = 1e-7


def _squared(target: tf.Tensor, p: tf.Tensor) -> tf.Tensor:
    return tf.square(target - p)


def _logit(target: tf.Tensor, p: tf.Tensor) -> tf.Tensor:
    target, p = _clipped(target), _clipped(p)
    return tf.square(
        (tf.math.log(target) - tf.math.log1p(-target)) - (tf.math.log(p) - tf.math.log1p(-p))
    )


def _kl(target: tf.Tensor, p: tf.Tensor) -> tf.Tensor:
    target, p = _clipped(target), _clipped(p)
    return target * tf.math.log(target / p) + (1 - target) * tf.math.log((1 - target) / (1 - p))


def _clipped(p: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(p, _EPSILON, 1 - _EPSILON)


AGREEMENTS: Mapping[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "squared": _squared,
    "logit": _logit,
    "kl": _kl,
}
"""Name -> how far a model's probabilities [B, 1] are from those of another, the target, [B, 1]."""


@dataclasses.dataclass(frozen=True)
class _Means:
    """Metrics of a training; in here Keras does not take their counts for weights of the model."""

    loss: keras.metrics.Mean
    agreement: keras.metrics.Mean


@keras.utils.register_keras_serializable(package=PACKAGE)
class MutualLearning(ExactEvaluation, keras.Model):
    """N click models of equal standing that learn from the clicks and from each other.

    Model n minimises (arXiv 2406.12087)

        L_n = BCE(y, p_n) + R_n + weight / (N - 1) * sum_{i != n} mean_B d(p_i, p_n)

    where the p_i of the others are constants, R_n are the regularisation losses of model n alone,
    and d is the agreement:

    - "squared", the paper's: `(p_i - p_n)^2`
    - "logit": `(logit p_i - logit p_n)^2`, which also counts where both are near 0
    - "kl": `KL(p_i || p_n)` of two Bernoulli variables (arXiv 1706.00384, section 3)

    Each model has its own variables, embeddings included, and its own optimizer; they share the
    batch, which is read and parsed once. With one model this is ordinary training, to the bit.
    According to the paper it does not help models that begin with random weights: train each alone
    first, then all together.

    As a model it is the averaging ensemble: `call` returns the mean of the probabilities. A model
    of it is used alone as `members[name]`.

    Args:
        members: Name -> click model. Any mix that predicts the same labels; the same class with
            other initial weights is one too.
        agreement: d, one of `AGREEMENTS`.
        weight: Of the agreement; 0 trains the models side by side.
        warm_up_steps: Updates of the optimizer over which the weight grows from 0 to `weight`.
        **kwargs: Arguments of `keras.Model`.

    Raises:
        ConfigError: If an argument is out of range, two models share a layer or predict different
            labels.

    Example:
        >>> from amstf.schema import Field, Schema
        >>> from models import EmbeddingMlp, LogisticRegression
        >>> schema = Schema((Field("user", "sparse", vocabulary_size=9), Field("click", "label")))
        >>> model = MutualLearning({"lr": LogisticRegression(schema), "mlp": EmbeddingMlp(schema)})
        >>> model.compile({"lr": "sgd", "mlp": "adam"}, metrics=["AUC"])
        >>> batch = {"user": tf.constant([3, 8])}, tf.constant([[0.0], [1.0]])
        >>> history = model.fit(tf.data.Dataset.from_tensors(batch), verbose=0).history
        >>> list(history)
        ['loss', 'agreement', 'auc', 'lr_loss', 'lr_auc', 'mlp_loss', 'mlp_auc']
    """

    def __init__(
        self,
        members: Mapping[str, keras.Model],
        agreement: str = "squared",
        weight: float = 1.0,
        warm_up_steps: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _check_members(members)
        if agreement not in AGREEMENTS:
            raise ConfigError(f"agreement is {agreement!r}; use one of {', '.join(AGREEMENTS)}")
        if not 0 <= weight < float("inf"):
            raise ConfigError(f"weight is {weight!r}; wanted a number from 0 to below inf")
        if (
            isinstance(warm_up_steps, bool)
            or warm_up_steps != int(warm_up_steps)
            or warm_up_steps < 0
        ):
            raise ConfigError(f"warm_up_steps is {warm_up_steps!r}; wanted a whole number from 0")
        self.members = dict(members)
        self.agreement = agreement
        self.weight = float(weight)
        self.warm_up_steps = int(warm_up_steps)

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Labels that the models predict; None if they do not say."""
        return getattr(next(iter(self.members.values())), "labels", None)

    @property
    def image_embeddings(self) -> dict[str, keras.layers.Layer]:
        """Image layers by store, or by store and model (STORE_MODEL) if there are several."""
        found = [
            (store, member, layer)
            for member, model in self.members.items()
            for store, layer in getattr(model, "image_embeddings", {}).items()
        ]
        alone = len(found) == 1
        return {store if alone else f"{store}_{name}": layer for store, name, layer in found}

    def call(self, inputs: Mapping[str, tf.Tensor], training: bool | None = None) -> Predictions:
        """Predicts the click probability: the mean of the models'.

        Args:
            inputs: A batch, see docs/design/architecture.md.
            training: Whether dropout is on.

        Returns:
            [B, 1] float32 in (0, 1), or with several labels a dict of label -> [B, 1].
        """
        return mean_prediction(self.predict_members(inputs, training))

    def predict_members(
        self, inputs: Mapping[str, tf.Tensor], training: bool | None = None
    ) -> dict[str, Predictions]:
        """Returns the predictions of each model by name."""
        return {name: member(inputs, training=training) for name, member in self.members.items()}

    def compile(
        self,
        optimizer: Any = "adam",
        loss: Any = "binary_crossentropy",
        metrics: Any = None,
        **kwargs: Any,
    ) -> None:
        """Prepares all models for training.

        Args:
            optimizer: Name of the model -> its optimizer; or one, of which each model gets a copy.
            loss: Of each model, without the agreement.
            metrics: Of each model, and of the mean of their predictions. In logs those of a model
                begin with its name.
            **kwargs: Further arguments of `keras.Model.compile`, for the training of all.

        Raises:
            ConfigError: If a model has no optimizer, or an optimizer no model.
        """
        optimizers = self._optimizers(optimizer)
        with self.distribute_strategy.scope():
            for name, member in self.members.items():
                member.compile(optimizers[name], loss, tf.nest.map_structure(_copy, metrics))
            super().compile(
                # What callbacks look at. Each model is updated by its own.
                next(iter(optimizers.values())),
                metrics=tf.nest.map_structure(_copy, metrics),
                **kwargs,
            )
            self._means = _Means(keras.metrics.Mean("loss"), keras.metrics.Mean("agreement"))

    def _optimizers(self, optimizer: Any) -> dict[str, keras.optimizers.Optimizer]:
        if not isinstance(optimizer, Mapping):
            made = keras.optimizers.get(optimizer)
            return {name: type(made).from_config(made.get_config()) for name in self.members}
        if set(optimizer) != set(self.members):
            raise ConfigError(
                f"optimizer is for {', '.join(optimizer) or 'no model'}; wanted one for each of "
                f"{', '.join(self.members)}"
            )
        optimizers = {name: keras.optimizers.get(optimizer[name]) for name in self.members}
        for (one, first), (other, second) in itertools.combinations(optimizers.items(), 2):
            if first is second:
                raise ConfigError(
                    f"optimizer is the same object for {one} and {other}; give each its own, or "
                    "one alone, of which each gets a copy"
                )
        return optimizers

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """One step of each model on one batch; called by `fit`."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            predictions = self.predict_members(x, training=True)
            losses = self._member_losses(x, y, predictions, sample_weight)
            # No model's loss has a gradient for the variables of another.
            total = tf.add_n(losses)
        variables = {name: member.trainable_variables for name, member in self.members.items()}
        gradients = tape.gradient(total, variables)
        for name, member in self.members.items():
            member.optimizer.apply_gradients(zip(gradients[name], variables[name], strict=True))
        return self._update_metrics(x, y, predictions, sample_weight)

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Measures one batch; called by `evaluate`."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        predictions = self.predict_members(x, training=False)
        self._member_losses(x, y, predictions, sample_weight)
        return self._update_metrics(x, y, predictions, sample_weight)

    def _member_losses(
        self, x: Any, y: Any, predictions: Mapping[str, Predictions], sample_weight: Any
    ) -> list[tf.Tensor]:
        """Returns L_n of each model."""
        losses = []
        for name, member in self.members.items():
            loss = member.compute_loss(x, y, predictions[name], sample_weight)
            if len(self.members) > 1:
                others = [value for other, value in predictions.items() if other != name]
                disagreement = self._disagreement(predictions[name], others, sample_weight)
                self._means.agreement.update_state(disagreement)
                loss += self._weight_of(member) * disagreement
            losses.append(loss)
        self._means.loss.update_state(tf.add_n(losses) / len(losses))
        return losses

    def _disagreement(
        self, prediction: Predictions, others: Sequence[Predictions], sample_weight: Any
    ) -> tf.Tensor:
        """Mean distance of a model from the others, which are constants; summed over labels."""
        distance = AGREEMENTS[self.agreement]
        total = tf.constant(0.0)
        for label, p in _by_label(prediction).items():
            of_others = [tf.stop_gradient(_by_label(other)[label]) for other in others]
            each = tf.add_n([distance(target, p) for target in of_others]) / len(others)
            weights = _by_label(sample_weight).get(label)
            if weights is not None:
                each *= tf.reshape(tf.cast(weights, each.dtype), tf.shape(each))
            total += tf.reduce_mean(each)
        return total

    def _weight_of(self, member: keras.Model) -> tf.Tensor | float:
        if not self.warm_up_steps:
            return self.weight
        updates = tf.cast(member.optimizer.iterations, tf.float32)
        return self.weight * tf.minimum(1.0, updates / self.warm_up_steps)

    def _update_metrics(
        self, x: Any, y: Any, predictions: Mapping[str, Predictions], sample_weight: Any
    ) -> dict[str, tf.Tensor]:
        self.compiled_metrics.update_state(y, mean_prediction(predictions), sample_weight)
        for name, member in self.members.items():
            member.compute_metrics(x, y, predictions[name], sample_weight)
        return self.get_metrics_result()

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The mean loss, the agreement and the metrics of the ensemble, then each model's."""
        own = [self._means.loss, self._means.agreement] if self._is_compiled else []
        if self._is_compiled and self.compiled_metrics is not None:
            own += self.compiled_metrics.metrics
        return own + [m for member in self.members.values() for m in member.metrics]

    def get_metrics_result(self) -> dict[str, tf.Tensor]:
        """Returns all metrics by name, those of a model with its name before."""
        own = [self._means.loss, self._means.agreement, *self.compiled_metrics.metrics]
        results = {metric.name: metric.result() for metric in own}
        for name, member in self.members.items():
            of_member = member.get_metrics_result()
            results |= {f"{name}_{key}": value for key, value in of_member.items()}
        return results

    def get_config(self) -> dict[str, Any]:
        """Returns the configurations of the models and of the agreement."""
        return {
            "name": self.name,
            "members": {name: _described(member) for name, member in self.members.items()},
            "agreement": self.agreement,
            "weight": self.weight,
            "warm_up_steps": self.warm_up_steps,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> MutualLearning:
        """Makes the model that `get_config` described, without its weights."""
        members = {
            name: keras.layers.deserialize(member, custom_objects)
            for name, member in config["members"].items()
        }
        return cls(**{**config, "members": members})


def mean_prediction(predictions: Mapping[str, Predictions]) -> Predictions:
    """Returns the mean of several models' predictions, in the form that each of them has.

    Example:
        >>> mean_prediction({"a": tf.constant([[0.2]]), "b": tf.constant([[0.4]])}).numpy().tolist()
        [[0.30000001192092896]]
    """
    each = list(predictions.values())
    return tf.nest.map_structure(lambda *values: tf.add_n(values) / len(values), *each)


def _described(member: keras.Model) -> dict[str, Any]:
    """Returns what makes the model again; without the shapes that Keras would call it with."""
    described = keras.layers.serialize(member)
    return {k: v for k, v in described.items() if k not in ("build_config", "compile_config")}


def _by_label(values: Any) -> Mapping[str, Any]:
    return values if isinstance(values, Mapping) else {"": values}


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _copy(metric: Any) -> Any:
    """Returns a metric of its own for each model, under the same name in all."""
    name = None
    if isinstance(metric, str):
        made = keras.metrics.get(metric)
        if not isinstance(made, keras.metrics.Metric):
            return metric  # A function: Keras makes a mean of it, named after it.
        # Keras would number them: auc, auc_1, auc_2.
        metric, name = made, _snake_case(type(made).__name__)
    if isinstance(metric, keras.metrics.Metric):
        config = metric.get_config()
        return type(metric).from_config({**config, "name": name or config["name"]})
    return metric


def _check_members(members: Mapping[str, keras.Model]) -> None:
    if not members:
        raise ConfigError("members is empty; give at least one model, two or more to agree")
    wrong = [name for name in members if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", str(name))]
    if wrong:
        raise ConfigError(
            f"members has the name {wrong[0]!r}; use letters, digits and _, a letter first"
        )
    owners: dict[int, str] = {}
    labels: dict[str, Any] = {}
    for name, member in members.items():
        for layer in (member, *member.submodules):
            if not isinstance(layer, keras.layers.Layer):
                continue
            owner = owners.setdefault(id(layer), name)
            if owner != name:
                raise ConfigError(
                    f"members {owner!r} and {name!r} share the layer {layer.name!r}; give each a "
                    "layer of its own: a model may not be trained by the loss of another"
                )
        labels[name] = getattr(member, "labels", None)
    (first, wanted), *others = labels.items()
    for name, got in others:
        if got != wanted:
            raise ConfigError(
                f"members {first!r} predicts {_listed(wanted)} and {name!r} {_listed(got)}; give "
                "all the same labels"
            )


def _listed(labels: Sequence[str] | None) -> str:
    return ", ".join(labels) if labels else "one label"
