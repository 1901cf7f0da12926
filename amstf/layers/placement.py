"""The interface of a placement, and what placements share."""

from __future__ import annotations

import abc
from typing import Any

import tensorflow as tf
import tf_keras as keras

from amstf import ops
from amstf.layers.learnt_missing import missing_embedding
from amstf.store import ImageStore, server_of
from amstf.strategy import ServerGroup


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
            missing: Policy for ids that the store lacks; but for "error" their embedding is the
                vector that E has learnt for them (`LearntMissing`), or zeros.
            training: Keras' training flag, for E.

        Returns:
            Embeddings [U, D], with gradients into the variables of E.
        """

    @abc.abstractmethod
    def counters(self, store: ImageStore) -> dict[str, int]:
        """Reads what was looked up so far, over all servers; names as `amstf.ops.COUNTER_NAMES`."""


def embed_found(
    embedding_model: keras.layers.Layer,
    features: tf.Tensor,
    found: tf.Tensor,
    missing: str,
    training: bool | None,
) -> tf.Tensor:
    """Runs E on features [n, F] of images that were found; others get what E has for them."""
    if missing == "error":
        return embedding_model(features, training=training)
    # E must not see the zeros of a missing image: its gradient there may be infinite (a norm), and
    # infinity times the zero that comes from above is NaN.
    rows = tf.where(found)
    embeddings = embedding_model(tf.gather(features, rows[:, 0]), training=training)
    shape = tf.stack([tf.shape(found, rows.dtype)[0], tf.shape(embeddings, rows.dtype)[1]])
    spread = tf.ensure_shape(tf.scatter_nd(rows, embeddings, shape), [None, embeddings.shape[-1]])
    learnt = missing_embedding(embedding_model)
    return spread if learnt is None else tf.where(found[:, tf.newaxis], spread, learnt)


def lookup_policy(missing: str) -> str:
    """Returns what the lookup does about an image that it does not find; what follows is E's."""
    return "error" if missing == "error" else "zeros"


class OnServers(Placement):
    """What the two placements on servers share: each id goes to the server that holds it."""

    def __init__(self, servers: ServerGroup) -> None:
        self._servers = servers

    def counters(self, store: ImageStore) -> dict[str, int]:
        """See `Placement.counters`."""
        per_server = [self._servers.counters(s, store) for s in range(len(self._servers))]
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
            return ops.image_lookup(self._servers.open(store, server), ids, lookup_policy(missing))


def stitch(positions: list[tf.Tensor], parts: Any, width: int) -> tf.Tensor:
    """Puts rows back in the order of the ids; right for no rows at all too."""
    stitched = tf.dynamic_stitch(positions, parts)
    return tf.ensure_shape(tf.reshape(stitched, [-1, width]), [None, width])
