"""AMS: images are looked up and embedded on the servers that hold them, forward and backward.

The protocol, and who does what in a round: docs/design/ams.md.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf
import tf_keras as keras

from amstf import ops
from amstf.layers.placement import OnServers, embed_found, stitch
from amstf.store import ImageStore
from amstf.strategy import ServerGroup
from amstf.strategy.replicas import EmbeddingReplicas
from amstf.strategy.rounds import worker_index


@dataclasses.dataclass(frozen=True)
class _Request:
    """What a step has asked of one server: its part in a round.

    Attributes:
        handle: The request, on the server.
        is_leader: Whether this step runs lookup and E for the round.
        tape: Recorded E.
        embeddings: [U, D] of the round's images for the leader, [0, D] for others.
        rows: [n, D], what this step asked for, as it crosses to the worker.
    """

    handle: tf.Tensor
    is_leader: tf.Tensor
    tape: tf.GradientTape
    embeddings: tf.Tensor
    rows: tf.Tensor


class ServersPlacement(OnServers):
    """AMS: lookup and E run on the server that holds the images, forward and backward.

    The backward is written by hand: TensorFlow would place the gradient's matrix products on the
    worker and drag the features there. What goes to the master of E is summed beside the variable
    it belongs to, so no copy of E passes through a worker.
    """

    def __init__(self, servers: ServerGroup) -> None:
        super().__init__(servers)
        self._meeting = servers.new_meeting()
        self._wire_dtype = tf.as_dtype(servers.owner.config.wire_dtype)

    def embed(
        self,
        ids: tf.Tensor,
        store: ImageStore,
        embedding_model: keras.layers.Layer,
        missing: str,
        training: bool | None,
    ) -> tf.Tensor:
        """See `Placement.embed`."""
        replicas = self._servers.owner.replicas(embedding_model, store.width)
        split, positions = self._route(ids)
        worker = worker_index()
        requests = [
            self._request(server, server_ids, worker, store, replicas, missing, training)
            for server, server_ids in enumerate(split)
        ]
        rows = self._attach(requests, replicas)
        width = requests[0].embeddings.shape[-1]
        return stitch(positions, [tf.cast(one, tf.float32) for one in rows], width)

    def _request(
        self,
        server: int,
        ids: tf.Tensor,
        worker: tf.Tensor,
        store: ImageStore,
        replicas: EmbeddingReplicas,
        missing: str,
        training: bool | None,
    ) -> _Request:
        """Asks one server: joins a round, embeds its images if this step leads it."""
        servers, index = self._servers, self._servers.indices[server]
        current = servers.owner.current_round()
        with tf.device(servers.storage_device(server)):
            handle, union, is_leader = ops.join(
                servers.meeting(self._meeting, server),
                ids,
                worker=worker,
                round_number=-1 if current is None else current.number,
                num_participants=1 if current is None else current.num_participants,
                leads=True if current is None else current.leads,
            )
            refresh = replicas.begin_round(index, is_leader, training)
        with tf.device(servers.compute_device(server)):
            refreshed = (
                tf.cond(refresh, lambda: replicas.refresh(index), lambda: tf.constant(False))
                if servers.owner.may_skip_updates
                else replicas.refresh(index)
            )
        features, found = self._lookup(server, union, store, missing)
        with (
            tf.device(servers.compute_device(server)),
            tf.control_dependencies([refreshed]),
            tf.GradientTape() as tape,
        ):
            embeddings = embed_found(replicas.model(index), features, found, missing, training)
        with tf.device(servers.storage_device(server)):
            rows = tf.cast(ops.share(handle, embeddings, self._wire_dtype.size), self._wire_dtype)
        return _Request(handle, is_leader, tape, embeddings, rows)

    def _attach(self, requests: list[_Request], replicas: EmbeddingReplicas) -> Any:
        """Returns the rows of all requests with the backward that runs on the servers."""
        parts = replicas.trained_parts

        @tf.custom_gradient
        def attach(*anchors: tf.Tensor) -> Any:
            def backward(*upstream: tf.Tensor) -> list[tf.Tensor]:
                replicas.forget_anchors()
                per_server = [
                    self._back_propagate(server, request, gradient, replicas)
                    for server, (request, gradient) in enumerate(
                        zip(requests, upstream, strict=True)
                    )
                ]
                gradients = []
                for part, contributions in zip(parts, zip(*per_server, strict=True), strict=True):
                    with tf.device(part.device):
                        gradients.append(ops.sum_present(contributions, part.shape.num_elements()))
                return gradients

            return tuple(tf.stop_gradient(request.rows) for request in requests), backward

        return attach(*replicas.anchors())

    def _back_propagate(
        self, server: int, request: _Request, gradient: tf.Tensor, replicas: EmbeddingReplicas
    ) -> list[tf.Tensor]:
        """What this step has for the master of E from one server; [0] where it has nothing."""
        index = self._servers.indices[server]
        with tf.device(self._servers.storage_device(server)):
            total, is_leader = ops.join_gradient(
                request.handle, tf.cast(gradient, tf.float32), self._wire_dtype.size
            )

        def lead() -> list[tf.Tensor]:
            with tf.device(self._servers.compute_device(server)):
                gradients = replicas.gradients(index, request.tape, request.embeddings, total)
            with tf.device(self._servers.storage_device(server)):
                with tf.control_dependencies(gradients):
                    ops.end_backward(request.handle)
                return replicas.hand_over(index, gradients)

        if not self._servers.owner.merges:
            return lead()
        with tf.device(self._servers.compute_device(server)):
            return tf.cond(is_leader, lead, lambda: [tf.zeros([0]) for _ in replicas.trained_parts])
