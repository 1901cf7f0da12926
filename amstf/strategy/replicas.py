"""Copies of an embedding model on the servers, and the way its gradient goes back to the master.

Why so: docs/design/ams.md, "Replicas" and "E's gradient and its optimizer".
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tf_keras as keras

from amstf import compat, ops
from amstf.errors import ConfigError


class EmbeddingReplicas:
    """The copies of one embedding model E, one on each server that computes with it.

    Args:
        embedding_model: E, built; its variables are the master copy.
        width: Features of an image (F).
        compute_device: From the index of a parameter server to the device that runs E there.
        sync_every: Rounds between two exchanges with the master.
        name: Of the state that the servers keep, unique among programs.

    Raises:
        ConfigError: If E cannot be cloned.
    """

    def __init__(
        self,
        embedding_model: keras.layers.Layer,
        width: int,
        compute_device: Callable[[int], str],
        sync_every: int,
        name: str,
    ) -> None:
        self._master = weakref.ref(embedding_model)
        self._width = width
        self._compute_device = compute_device
        self._sync_every = sync_every
        self._name = name
        self._models: dict[int, keras.layers.Layer] = {}
        self._parts: list[list[tf.Variable]] = []
        self._master_refs = {part.ref() for part in embedding_model.weights}
        # The function that is being traced, and where the next layer in it hangs its anchors.
        self._links: tuple[Any, list[tf.Tensor]] = (None, [])

    def holds(self, variable: tf.Variable) -> bool:
        """Whether a variable is one of the master's."""
        return variable.ref() in self._master_refs

    def model(self, server: int) -> keras.layers.Layer:
        """The copy on a server, by its index among the parameter servers."""
        if server not in self._models:
            master = self._living_master()
            # Variables in a function that is being traced would be that function's own.
            with tf.init_scope():
                clone = _clone_on(self._compute_device(server), master, self._width)
            self._parts = _parts_of(master, clone)
            self._models[server] = clone
        return self._models[server]

    def state(self, server: int) -> tf.Tensor:
        """Handle of what a server keeps between exchanges; call it on the server's CPU."""
        return ops.replica_state(self._sync_every, f"{self._name}_{server}")

    def begin_round(self, server: int, is_leader: tf.Tensor, training: bool | None) -> tf.Tensor:
        """Whether the copy must be refreshed now, bool scalar; call it on the server's CPU.

        An evaluation always sees the newest weights. It does not count as a round.
        """
        if self._sync_every == 1 or training is False:
            return is_leader
        return ops.begin_round(self.state(server), is_leader)

    def refresh(self, server: int) -> tf.Tensor:
        """Copies the master's weights to a server; call it on the device that computes there.

        Returns:
            True, once they are there.
        """
        assigned = []
        for variable, parts in zip(self.model(server).weights, self._parts, strict=True):
            values = []
            for part in parts:
                with tf.device(part.device):
                    values.append(part.read_value())
            weights = values[0] if len(values) == 1 else tf.concat(values, 0)
            assigned.append(variable.assign(weights, read_value=False))
        with tf.control_dependencies(assigned):
            return tf.constant(True)

    @property
    def trained_parts(self) -> list[tf.Variable]:
        """The master's trainable variables; of a variable split over servers, its parts."""
        return [part for _, parts in self._trained() for part in parts]

    def gradients(
        self, server: int, tape: tf.GradientTape, embeddings: tf.Tensor, upstream: tf.Tensor
    ) -> list[tf.Tensor]:
        """Back-propagates on a server: one gradient for each of `trained_parts`."""
        trained = self._trained()
        found = tape.gradient(
            embeddings,
            [self.model(server).weights[index] for index, _ in trained],
            output_gradients=upstream,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        gradients: list[tf.Tensor] = []
        for gradient, (_, parts) in zip(found, trained, strict=True):
            gradient = tf.convert_to_tensor(gradient)
            rows = [part.shape[0] for part in parts] if len(parts) > 1 else None
            gradients += tf.split(gradient, rows) if rows else [gradient]
        return gradients

    def hand_over(self, server: int, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        """The gradients that go to the master after this round; empty ones, [0], if none do."""
        if self._sync_every == 1:
            return gradients
        return ops.accumulate_gradients(self.state(server), gradients)

    def anchors(self) -> list[tf.Tensor]:
        """For each of `trained_parts` a tensor [0] that passes on as its gradient what it gets.

        `tf.custom_gradient` sends its inputs through the device of its call: given the weights
        themselves, each step would bring all of E to the worker, unused. What comes back may be
        empty. Layers that share E hang their anchors one on the other's, so that the sum is formed
        beside the variable and not on the worker.
        """
        graph = tf.compat.v1.get_default_graph()
        before = self._links[1] if self._links[0] is graph else []
        anchors, links = [], []
        for index, part in enumerate(self.trained_parts):
            with tf.device(part.device):
                root = before[index] if before else _root(tf.convert_to_tensor(part))
                anchor, link = _fork(root, part)
            anchors.append(anchor)
            links.append(link)
        if compat.is_tape_recording() and not tf.executing_eagerly():
            self._links = (graph, links)
        return anchors

    def forget_anchors(self) -> None:
        """Begins anew: a later call in the same function belongs to another gradient."""
        self._links = (None, [])

    def _trained(self) -> list[tuple[int, list[tf.Variable]]]:
        """Index among the weights, and parts, of each variable that is trained at present."""
        trainable = {variable.ref() for variable in self._living_master().trainable_weights}
        return [
            (index, parts) for index, parts in enumerate(self._parts) if parts[0].ref() in trainable
        ]

    def _living_master(self) -> keras.layers.Layer:
        master = self._master()
        assert master is not None, "a layer that embeds holds its embedding model"
        return master


def _clone_on(device: str, embedding_model: keras.layers.Layer, width: int) -> keras.layers.Layer:
    def make_variable(next_creator: Any, **kwargs: Any) -> tf.Variable:
        del next_creator  # The strategy's.
        with tf.device(device):
            # The first round brings the weights.
            return compat.PlacedVariable(
                tf.zeros(kwargs["shape"], kwargs["dtype"]),
                trainable=kwargs["trainable"],
                name=f"replica/{kwargs['name']}",
            )

    try:
        with tf.variable_creator_scope(make_variable):
            clone = type(embedding_model).from_config(embedding_model.get_config())
            if not clone.built:
                clone.build(tf.TensorShape([None, width]))
    except NotImplementedError as error:
        raise ConfigError(
            f"the embedding model {embedding_model.name!r} cannot be copied to the servers: it has "
            "no get_config(); write one, or make it of Keras layers (keras.Sequential)"
        ) from error
    return clone


def _parts_of(
    embedding_model: keras.layers.Layer, clone: keras.layers.Layer
) -> list[list[tf.Variable]]:
    """For each variable of the clone the master's: one, or the parts that hold its rows."""
    left = list(embedding_model.weights)
    found = []
    for variable in clone.weights:
        parts = left[:1]
        del left[:1]
        while left and parts[0].shape != variable.shape and _rows(parts) < variable.shape[0]:
            parts.append(left.pop(0))
        if not parts or (parts[0].shape != variable.shape and _rows(parts) != variable.shape[0]):
            left.append(variable)  # Says below that they differ.
            break
        found.append(parts)
    if left:
        raise ConfigError(
            f"the embedding model {embedding_model.name!r} and its copy made with get_config() "
            "have different weights; let get_config() describe all of it"
        )
    return found


def _rows(parts: list[tf.Variable]) -> int:
    return sum(part.shape[0] for part in parts if part.shape.rank)


@tf.custom_gradient
def _root(weight: tf.Tensor) -> Any:
    return tf.zeros([0]), lambda gradient: gradient


def _fork(anchor: tf.Tensor, part: tf.Variable) -> tuple[tf.Tensor, tf.Tensor]:
    """Two anchors in place of one; what comes back to them is summed on the device of the part."""

    @tf.custom_gradient
    def fork(anchor: tf.Tensor) -> Any:
        def backward(*gradients: tf.Tensor) -> tf.Tensor:
            with tf.device(part.device):
                return ops.sum_present(gradients, part.shape.num_elements())

        return (tf.identity(anchor), tf.identity(anchor)), backward

    return fork(anchor)
