"""Where the images of a step are looked up and embedded: in process, on servers, on workers.

One interface, `Placement.embed`, and one spot that chooses (`current_placement`). The local one is
the meaning; the others must agree with it.
"""

from __future__ import annotations

import abc
from typing import Any

import tensorflow as tf
import tf_keras as keras

from amstf import ops
from amstf.config import WORKERS
from amstf.store import ImageStore, server_of
from amstf.strategy import AdvancedModelServerStrategy, ModelServers


class Placement(abc.ABC):
    """Embeds the distinct images of a step."""

    @abc.abstractmethod
    def embed(
        self,
        ids: tf.Tensor,
        store: ImageStore,
        embedding_model: keras.layers.Layer,
        missing: str,
        training: bool | None,
    ) -> tf.Tensor:
        """Looks up and embeds images.

        Args:
            ids: Distinct image ids, int64 [U], none negative.
            store: Where the raw features are.
            embedding_model: E, [n, F] float32 -> [n, D].
            missing: Policy for ids that the store lacks; under "zeros" their embedding is zeros.
            training: Keras' training flag, for E.

        Returns:
            Embeddings [U, D], with gradients into the variables of E.
        """

    @abc.abstractmethod
    def counters(self, store: ImageStore) -> dict[str, int]:
        """Reads the counters (`amstf.ops.COUNTER_NAMES`) up to now, summed over servers."""


def _embed_found(
    embedding_model: keras.layers.Layer,
    features: tf.Tensor,
    found: tf.Tensor,
    missing: str,
    training: bool | None,
) -> tf.Tensor:
    embeddings = embedding_model(features, training=training)
    if missing == "error":
        return embeddings
    return tf.where(found[:, tf.newaxis], embeddings, tf.zeros_like(embeddings))


class LocalPlacement(Placement):
    """Everything in the process that runs the step: the embedded default, and the meaning."""

    def counters(self, store: ImageStore) -> dict[str, int]:
        """See `Placement.counters`."""
        with tf.device("CPU:0"):
            values = ops.image_store_counters(self._open(store)).numpy()
        return dict(zip(ops.COUNTER_NAMES, map(int, values), strict=True))

    @staticmethod
    def _open(store: ImageStore) -> tf.Tensor:
        return ops.image_store(store.files, store.width, tf.as_dtype(store.dtype))

    def embed(
        self,
        ids: tf.Tensor,
        store: ImageStore,
        embedding_model: keras.layers.Layer,
        missing: str,
        training: bool | None,
    ) -> tf.Tensor:
        """See `Placement.embed`."""
        with tf.device("CPU:0"):
            features, found = ops.image_lookup(self._open(store), ids, missing)
        return _embed_found(embedding_model, features, found, missing, training)


class _OnServers(Placement):
    """What the two placements on servers share: each id goes to the server that holds it."""

    def __init__(self, servers: ModelServers) -> None:
        self._servers = servers

    def counters(self, store: ImageStore) -> dict[str, int]:
        """See `Placement.counters`."""
        per_server = self._servers.counters(store)
        return {name: sum(server[name] for server in per_server) for name in ops.COUNTER_NAMES}

    def _route(self, ids: tf.Tensor) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Splits ids [U] by server: the ids of each, and their positions in `ids`."""
        owners = tf.cast(server_of(ids, len(self._servers)), tf.int32)
        split = tf.dynamic_partition(ids, owners, len(self._servers))
        positions = tf.dynamic_partition(tf.range(tf.size(ids)), owners, len(self._servers))
        return split, positions

    def _lookup(
        self, server: int, ids: tf.Tensor, store: ImageStore, missing: str
    ) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.device(self._servers.storage_device(server)):
            return ops.image_lookup(self._servers.open(store, server), ids, missing)


class WorkersPlacement(_OnServers):
    """Raw features are pulled from the servers; the worker embeds them (store-in-server)."""

    def embed(
        self,
        ids: tf.Tensor,
        store: ImageStore,
        embedding_model: keras.layers.Layer,
        missing: str,
        training: bool | None,
    ) -> tf.Tensor:
        """See `Placement.embed`."""
        split, positions = self._route(ids)
        looked_up = [
            self._lookup(server, server_ids, store, missing)
            for server, server_ids in enumerate(split)
        ]
        features = _stitch(positions, [features for features, _ in looked_up], store.width)
        found = tf.dynamic_stitch(positions, [found for _, found in looked_up])
        return _embed_found(embedding_model, features, found, missing, training)


class ServersPlacement(_OnServers):
    """AMS: lookup and E run on the server that holds the images, forward and backward.

    The backward is written by hand: TensorFlow would place the gradient's matrix products on the
    worker and drag the features there. The sum over servers of a weight's gradient is formed on the
    server that holds the weight, so no copy of E passes through a worker.
    """

    def embed(
        self,
        ids: tf.Tensor,
        store: ImageStore,
        embedding_model: keras.layers.Layer,
        missing: str,
        training: bool | None,
    ) -> tf.Tensor:
        """See `Placement.embed`."""
        split, positions = self._route(ids)

        @tf.custom_gradient
        def embed_on_servers(*split: tf.Tensor) -> Any:
            embeddings, tapes = [], []
            for server, server_ids in enumerate(split):
                features, found = self._lookup(server, server_ids, store, missing)
                with tf.device(self._servers.compute_device(server)), tf.GradientTape() as tape:
                    embeddings.append(
                        _embed_found(embedding_model, features, found, missing, training)
                    )
                tapes.append(tape)

            def backward(*upstream: tf.Tensor, variables: Any = ()) -> Any:
                partial = []
                for server, tape in enumerate(tapes):
                    with tf.device(self._servers.compute_device(server)):
                        partial.append(
                            tape.gradient(
                                embeddings[server],
                                variables,
                                output_gradients=upstream[server],
                                unconnected_gradients=tf.UnconnectedGradients.ZERO,
                            )
                        )
                gradients = []
                for variable, parts in zip(variables, zip(*partial, strict=True), strict=True):
                    with tf.device(variable.device):
                        gradients.append(tf.add_n(parts))
                return [None] * len(split), gradients

            return tuple(embeddings), backward

        embeddings = embed_on_servers(*split)
        return _stitch(positions, embeddings, embeddings[0].shape[-1])


def _stitch(positions: list[tf.Tensor], parts: Any, width: int) -> tf.Tensor:
    """Puts rows back in the order of the ids; right for no rows at all too."""
    stitched = tf.dynamic_stitch(positions, parts)
    return tf.ensure_shape(tf.reshape(stitched, [-1, width]), [None, width])


class TablePlacement(Placement):
    """Embeddings computed beforehand, in a table: what a server of predictions uses.

    Made of stock TensorFlow ops only, so that a stock TF Serving loads what is traced with it.

    Args:
        ids: Image ids in ascending order, int64 [n], a variable.
        table: Their embeddings, [n, D], a variable. An id that is not in it has the embedding zero.
    """

    def __init__(self, ids: tf.Variable, table: tf.Variable) -> None:
        self._ids = ids
        self._table = table

    def counters(self, store: ImageStore) -> dict[str, int]:
        """See `Placement.counters`; a table counts nothing."""
        return dict.fromkeys(ops.COUNTER_NAMES, 0)

    def embed(
        self,
        ids: tf.Tensor,
        store: ImageStore,
        embedding_model: keras.layers.Layer,
        missing: str,
        training: bool | None,
    ) -> tf.Tensor:
        """See `Placement.embed`; only `ids` is used."""
        last = tf.maximum(tf.size(self._ids) - 1, 0)
        rows = tf.minimum(tf.searchsorted(self._ids, ids), last)
        found = tf.equal(tf.gather(self._ids, rows), ids)
        embeddings = tf.gather(self._table, rows)
        return tf.where(found[:, tf.newaxis], embeddings, tf.zeros_like(embeddings))


def current_placement() -> Placement:
    """Chooses the placement by the strategy in whose scope the call is made."""
    strategy = tf.distribute.get_strategy()
    if not isinstance(strategy, AdvancedModelServerStrategy):
        return LocalPlacement()
    if strategy.ams.config.placement == WORKERS:
        return WorkersPlacement(strategy.ams)
    return ServersPlacement(strategy.ams)
