"""Where the images of a step are looked up and embedded: in process, on servers, on workers.

One interface, `Placement.embed`, and one spot that chooses (`current_placement`). The local one is
the meaning; the others must agree with it. Why so: docs/design/ams_layer.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
import tf_keras as keras

from amstf import ops
from amstf.config import WORKERS
from amstf.layers.learnt_missing import missing_embedding
from amstf.layers.placement import OnServers, Placement, embed_found, lookup_policy, stitch
from amstf.layers.servers_placement import ServersPlacement
from amstf.store import ImageStore
from amstf.strategy import AdvancedModelServerStrategy


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
            features, found = ops.image_lookup(self._open(store), ids, lookup_policy(missing))
        return embed_found(embedding_model, features, found, missing, training)


class WorkersPlacement(OnServers):
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
        features = stitch(positions, [features for features, _ in looked_up], store.width)
        found = tf.dynamic_stitch(positions, [found for _, found in looked_up])
        return embed_found(embedding_model, features, found, missing, training)


class TablePlacement(Placement):
    """Embeddings computed beforehand, in a table: what a server of predictions uses.

    Made of stock TensorFlow ops only, so that a stock TF Serving loads what is traced with it.

    Args:
        ids: Image ids in ascending order, int64 [n], a variable.
        table: Their embeddings, [n, D], a variable. An id that is not in it has the embedding that
            E has learnt for such images, or zero.
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
        """See `Placement.embed`; ids may be negative, "no image", whose embedding is zero."""
        last = tf.maximum(tf.size(self._ids) - 1, 0)
        rows = tf.minimum(tf.searchsorted(self._ids, ids), last)
        found = tf.equal(tf.gather(self._ids, rows), ids)
        embeddings = tf.cast(tf.gather(self._table, rows), tf.float32)
        others = tf.zeros_like(embeddings)
        learnt = missing_embedding(embedding_model)
        if learnt is not None:
            others = tf.where((ids >= 0)[:, tf.newaxis], learnt, others)
        return tf.where(found[:, tf.newaxis], embeddings, others)


def current_placement(servers: Sequence[int] | None = None) -> Placement:
    """Chooses the placement by the strategy in whose scope the call is made.

    Args:
        servers: Indices of the parameter servers that hold the images; None means those that the
            strategy's configuration names.
    """
    strategy = tf.distribute.get_strategy()
    if not isinstance(strategy, AdvancedModelServerStrategy):
        return LocalPlacement()
    group = strategy.ams.group(servers)
    if strategy.ams.config.placement == WORKERS:
        return WorkersPlacement(group)
    return ServersPlacement(group)
