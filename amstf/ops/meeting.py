"""Ops that merge the requests of several workers on the server that embeds their images."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from amstf.ops._load import load_library

MEETING_COUNTER_NAMES = (
    "requests",
    "ids_asked",
    "ids_distinct",
    "rounds",
    "merged",
    "gone",
    "late",
    "bytes_in",
    "bytes_out",
    "wait_nanoseconds",
    "leader_forward_nanoseconds",
    "leader_backward_wait_nanoseconds",
    "leader_backward_nanoseconds",
    "open_requests",
)
"""What `meeting_counters` returns, in order.

requests that joined; ids they asked for; distinct ids over rounds; rounds; requests in rounds of
more than one; requests that ended too soon for their round; gradients dropped because nobody was
left to use them; bytes of ids and gradients, and of rows, as they cross the wire; nanoseconds from
join to the close of the round, over requests; from there to the leader's embeddings; from the
leader's gradient to the sum; from there until E's gradients are there; requests open now.
"""


def meeting(
    name: str,
    *,
    merge: str = "none",
    num_workers: int = 1,
    merge_wait_ms: float = 5.0,
    worker_timeout_ms: float = 10_000.0,
) -> tf.Tensor:
    """Opens a meeting on the current device; every call with the same name gives the same one.

    What merging is, and who waits for whom: docs/design/ams.md. The handle op is part of each
    function that joins, so a server that was restarted has a new meeting by itself.

    Args:
        name: Of the meeting, on its device.
        merge: Which requests meet, see `amstf.AmsConfig`: "none", "async" or "sync".
        num_workers: Workers of the cluster (W).
        merge_wait_ms: How long a round of "async" waits for others, milliseconds.
        worker_timeout_ms: After this time without a sign a worker is taken for lost, milliseconds.

    Returns:
        Resource handle, a scalar.

    Raises:
        tf.errors.InvalidArgumentError: If an option makes no sense, or a meeting of this name is
            open with other options.
    """
    return load_library().ams_meeting(
        merge=merge,
        num_workers=num_workers,
        merge_wait_ms=merge_wait_ms,
        worker_timeout_ms=worker_timeout_ms,
        shared_name=f"amstf_meeting_{name}",
    )


def join(
    handle: tf.Tensor,
    ids: tf.Tensor,
    worker: Any = -1,
    *,
    round_number: Any = -1,
    num_participants: Any = 1,
    leads: Any = True,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Joins a round of requests; done when the round is closed.

    The request must stay on its device. When nothing refers to it any longer, because the step is
    done or was cancelled, the others stop waiting for it.

    Args:
        handle: From `meeting`.
        ids: Image ids, int64 [n], none negative. Duplicates are fine.
        worker: Index of the worker that asks, int32 scalar; negative: unknown, it meets nobody.
        round_number: Number of the synchronous round, int64 scalar; negative: in none.
        num_participants: Workers in that round, int32 scalar.
        leads: Whether this worker leads that round, bool scalar.

    Returns:
        The request, a variant scalar, for `share` and `join_gradient`; the ids to embed, int64 [U]:
        for the leader the distinct ids of the round, none for the others; and whether this request
        leads, bool scalar.

    Raises:
        tf.errors.InvalidArgumentError: If an argument makes no sense.
    """
    outputs = load_library().ams_join(
        handle=handle,
        ids=ids,
        worker=worker,
        round=round_number,
        num_participants=num_participants,
        leads=leads,
    )
    return outputs.request, outputs.union_ids, outputs.is_leader


def share(request: tf.Tensor, embeddings: tf.Tensor, wire_bytes: int = 4) -> tf.Tensor:
    """Gives every request of a round its rows of what the leader embedded.

    Args:
        request: From `join`.
        embeddings: Of the ids to embed, float32 [U, D]; so [0, D] of those that do not lead.
        wire_bytes: Bytes of one value on its way to the worker, for the counters.

    Returns:
        Embeddings of the request's own ids, float32 [n, D]. No gradient: see `join_gradient`.

    Raises:
        tf.errors.CancelledError: If the leader is gone or hangs. A step that
            `tf.distribute.coordinator.ClusterCoordinator` scheduled runs again then.
        tf.errors.InvalidArgumentError: If the shape is not that, or the request is from elsewhere.
    """
    return load_library().ams_share(request=request, embeddings=embeddings, wire_bytes=wire_bytes)


def join_gradient(
    request: tf.Tensor, gradient: tf.Tensor, wire_bytes: int = 4
) -> tuple[tf.Tensor, tf.Tensor]:
    """Gives the leader of a round the sum of all its requests' gradients.

    The leader waits until each request has brought its gradient or is gone, the others go on.

    Args:
        request: From `join`.
        gradient: Of the rows that `share` gave, float32 [n, D].
        wire_bytes: Bytes of one value on its way from the worker, for the counters.

    Returns:
        For the leader the sum per id, float32 [U, D], in the order of the ids that `join` gave, or
        under merge="sync" the mean over the requests that brought a gradient; [0, D] for the
        others. And whether this request leads, bool scalar.

    Raises:
        tf.errors.InvalidArgumentError: If the shape is not that, or the request is from elsewhere.
        tf.errors.FailedPreconditionError: If the request has no rows yet, or brings a second one.
    """
    outputs = load_library().ams_join_gradient(
        request=request, gradient=gradient, wire_bytes=wire_bytes
    )
    return outputs.sum, outputs.is_leader


def end_backward(request: tf.Tensor) -> tf.Operation:
    """Says that the leader's backward is done, for the counters; run it after E's gradients.

    Args:
        request: From `join`.
    """
    return load_library().ams_end_backward(request=request)


def meeting_counters(handle: tf.Tensor) -> tf.Tensor:
    """Reads the counters of a meeting, int64 [len(MEETING_COUNTER_NAMES)]."""
    return load_library().ams_meeting_counters(handle=handle)


# The layer writes its backward by hand: it has to run on the server, and once per round.
tf.no_gradient("AmsMeeting")
tf.no_gradient("AmsJoin")
tf.no_gradient("AmsShare")
tf.no_gradient("AmsJoinGradient")
tf.no_gradient("AmsEndBackward")
tf.no_gradient("AmsMeetingCounters")
