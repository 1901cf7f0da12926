"""What a server of a running cluster spends its time on, op by op, from TensorFlow's own profiler.

Every TensorFlow server answers profiling requests; nothing has to be built into it.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence

import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

# The profiler writes `name:Type` for an op; its other events have spaces or `::`.
_OP = re.compile(r"(?P<name>[^:\s]+):(?P<type>\w+)")
# Ops as short as a slice are recorded from this level on.
_ALL_OPS = 3

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class OpEvent:
    """One run of one op.

    Attributes:
        name: Of the op in its graph, e.g. "gradient_tape/image_tower/dense/MatMul".
        type: Of the op as it ran, e.g. "_MklNativeFusedMatMul".
        start, end: Seconds on the clock of the process.
    """

    name: str
    type: str
    start: float
    end: float


def server_address(index: int) -> str:
    """Address of parameter server `index` of the cluster in TF_CONFIG."""
    return json.loads(os.environ["TF_CONFIG"])["cluster"]["ps"][index]


def record(address: str, seconds: float) -> list[OpEvent]:
    """Records what runs in a server; blocks meanwhile, so call it beside what is to be recorded.

    Args:
        address: host:port of the server.
        seconds: How long.

    Returns:
        The ops that ended in this time, by start.
    """
    options = tf.profiler.experimental.ProfilerOptions(
        host_tracer_level=_ALL_OPS, python_tracer_level=0, device_tracer_level=0
    )
    with tempfile.TemporaryDirectory() as directory:
        with _stdout_discarded():
            tf.profiler.experimental.client.trace(
                f"grpc://{address}", directory, round(1e3 * seconds), options=options
            )
        (path,) = pathlib.Path(directory).glob("**/*.xplane.pb")
        return read(path)


@contextlib.contextmanager
def _stdout_discarded() -> Iterator[None]:
    """The profiler's client says in C++ that it starts; nothing switches it off."""
    sys.stdout.flush()
    terminal = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    try:
        yield
    finally:
        ctypes.CDLL(None).fflush(None)
        os.dup2(terminal, 1)
        os.close(terminal)


def read(path: pathlib.Path) -> list[OpEvent]:
    """Reads the ops of a recording, by start."""
    space = xplane_pb2.XSpace.FromString(path.read_bytes())
    events = []
    for plane in space.planes:
        ops = {
            key: found.group("name", "type")
            for key, metadata in plane.event_metadata.items()
            if (found := _OP.fullmatch(metadata.name))
        }
        for line in plane.lines:
            for event in line.events:
                if event.metadata_id in ops:
                    start = 1e-9 * line.timestamp_ns + 1e-12 * event.offset_ps
                    end = start + 1e-12 * event.duration_ps
                    events.append(OpEvent(*ops[event.metadata_id], start, end))
    return sorted(events, key=lambda event: event.start)


class TooShortError(ValueError):
    """A recording that holds no whole step."""


def whole_steps(
    events: Sequence[OpEvent], is_marker: Callable[[OpEvent], bool]
) -> tuple[list[OpEvent], int, float]:
    """Cuts a recording to whole steps, from the first marker to the last.

    Args:
        events: By start.
        is_marker: True for one op of each step.

    Returns:
        The events in between, cut at its ends; how many steps these are; how many seconds.

    Raises:
        TooShortError: If there are not two markers.
    """
    marks = [event.start for event in events if is_marker(event)]
    if len(marks) < 2:
        raise TooShortError(
            f"the recording holds {len(marks)} of the ops wanted; record for longer"
        )
    begin, end = marks[0], marks[-1]
    inside = [
        dataclasses.replace(event, start=max(event.start, begin), end=min(event.end, end))
        for event in events
        if event.start < end and event.end > begin
    ]
    return inside, len(marks) - 1, end - begin


def union(intervals: Sequence[Interval]) -> list[Interval]:
    """Joins intervals that overlap.

    Example:
        >>> union([(4, 5), (0, 2), (1, 3)])
        [(0, 3), (4, 5)]
    """
    joined: list[Interval] = []
    for start, end in sorted(intervals):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined


def shares(
    events: Sequence[OpEvent], parts: Mapping[str, Callable[[OpEvent], bool]]
) -> dict[str, float]:
    """Splits the time in which any op ran into parts.

    Args:
        events: The ops.
        parts: For each part, which ops belong to it. An op belongs to the first part that takes it,
            and time in which ops of several parts ran to the first of them.

    Returns:
        Seconds of each part. They add up to the time in which any op that a part takes ran.
    """
    intervals: dict[str, list[Interval]] = {part: [] for part in parts}
    for event in events:
        for part, takes in parts.items():
            if takes(event):
                intervals[part].append((event.start, event.end))
                break
    seconds, before, so_far = {}, 0.0, []
    for part in parts:
        so_far = union([*so_far, *intervals[part]])
        total = sum(end - start for start, end in so_far)
        seconds[part] = total - before
        before = total
    return seconds
