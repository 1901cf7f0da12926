"""Chief of the test of meetings in real processes: 3 workers, of which it kills two, and 1 server.

Prints one line of JSON: what the meetings counted, and what the steps gave.
"""

import json
import os
import pathlib
import signal
import sys
import time
import traceback

import amstf  # noqa: F401  # isort: skip - selects Keras 2 before TensorFlow is imported
import tensorflow as tf

from amstf import ops
from tests.cluster import connect

SERVER = "/job:ps/replica:0/task:0/device:CPU:0"
NUM_WORKERS = 3
WIDTH = 4


def meeting(name):
    # Long enough for all to come on a busy machine. A step that runs again waits as long for the
    # dead; whoever waited for its timeout would fail the test.
    wait = {"follower": 8_000.0, "leader": 4_000.0}[name]
    return ops.meeting(
        name,
        merge="async",
        num_workers=NUM_WORKERS,
        merge_wait_ms=wait,
        worker_timeout_ms=600_000.0,
    )


def counters(name):
    with tf.device(SERVER):
        values = ops.meeting_counters(meeting(name))
    return dict(zip(ops.MEETING_COUNTER_NAMES, values.numpy().tolist(), strict=True))


def wait_for(condition, what, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited too long for {what}")
        time.sleep(0.05)


def make_step(name, gate, victim, victim_comes_last, hold_before):
    """A step whose victim arrives first or last, and then hangs until the gate is open."""

    def hold(value, here, worker):
        """Lets a worker wait, in its own process, until the gate is open."""
        if here != hold_before:
            return value
        spins = tf.constant(0)
        while worker == victim and gate.read_value() == 0:
            spins += 1
        with tf.control_dependencies([spins]):
            return tf.identity(value)

    def num_requests():
        with tf.device(SERVER):
            return ops.meeting_counters(meeting(name))[0]

    @tf.function
    def step():
        _, worker = ops.task_location()
        mine = tf.cast(worker, tf.int64)
        waits = tf.equal(worker, victim) == victim_comes_last
        spins = tf.constant(0)
        while waits and num_requests() < (NUM_WORKERS - 1 if victim_comes_last else 1):
            spins += 1
        with tf.control_dependencies([spins]):
            ids = tf.stack([mine, tf.constant(100, tf.int64)])
        with tf.device(SERVER):
            request, union_ids, leads = ops.join(meeting(name), ids, worker)
            embeddings = tf.cast(union_ids, tf.float32)[:, tf.newaxis] * tf.ones([1, WIDTH])
        scale = hold(tf.constant(1.0), "share", worker)
        with tf.device(SERVER):
            rows = ops.share(request, embeddings * scale)
        gradient = hold(tf.ones_like(rows), "gradient", worker)
        with tf.device(SERVER):
            total, _ = ops.join_gradient(request, gradient)
        return worker, leads, rows, total

    return step


def main(log_dir):
    strategy = connect()
    with strategy.scope():
        gates = [tf.Variable(0), tf.Variable(0)]
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)

    def kill(worker):
        pid = int((pathlib.Path(log_dir) / f"worker-{worker}.pid").read_text())
        os.kill(pid, signal.SIGKILL)

    def finish(name, results, gate, since):
        """All steps end, those of the dead on another worker."""
        gate.assign(1)
        coordinator.join()
        seconds = time.monotonic() - since
        wait_for(lambda: counters(name)["open_requests"] == 0, "the requests to end")
        steps = []
        for result in results:
            values = [value.tolist() for value in result.fetch()]
            steps.append(dict(zip(("worker", "leads", "rows", "sum"), values, strict=True)))
        return {"seconds": seconds, "steps": steps, "counted": counters(name)}

    step = make_step("follower", gates[0], 2, True, "gradient")
    results = [coordinator.schedule(step) for _ in range(NUM_WORKERS)]
    wait_for(lambda: counters("follower")["bytes_out"] == 3 * 2 * WIDTH * 4, "the rows")
    kill(2)
    follower = finish("follower", results, gates[0], time.monotonic())

    step = make_step("leader", gates[1], 1, False, "share")
    results = [coordinator.schedule(step) for _ in range(2)]
    wait_for(lambda: counters("leader")["rounds"] == 1, "the first round")
    kill(1)
    leader = finish("leader", results, gates[1], time.monotonic())

    print(json.dumps({"follower": follower, "leader": leader}), flush=True)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    # A coordinator that is let go of waits for the threads of its workers, and those for the dead.
    os._exit(0)
