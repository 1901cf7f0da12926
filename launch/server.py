"""One worker or one parameter server (role ps) of a cluster, as the environment's TF_CONFIG says.

    TF_CONFIG='{"cluster": {"chief": ["a:1"], "worker": ["b:1"], "ps": ["c:1"]},
                "task": {"type": "ps", "index": 0}}' python -m launch.server

It loads amstf's ops, starts a TensorFlow server, says `ready`, and leaves with the chief: exit code
0 when the training is finished, 138 (restart me) when the chief was lost; see launch/program.py.
SIGTERM ends it with 143. The chief is a program of its own, e.g. `python -m launch.train`;
on one machine `launch.train --cluster=2x2` starts all of this itself.
"""

import os
import signal
from typing import NoReturn

from absl import flags

from amstf.errors import AmstfError, ConfigError
from launch import chief_link, child, program, tf_config

_INTRA_OP_THREADS = flags.DEFINE_integer(
    "intra_op_threads",
    0,
    "Threads that one op of this process may use; 0: as many as the machine has cores.",
    lower_bound=0,
)
_CHIEF_TIMEOUT_S = flags.DEFINE_float(
    "chief_timeout_s",
    300.0,
    "Worker or ps: seconds without a chief after which it ends with exit code 138 (restart me); 0: "
    "never.",
    lower_bound=0.0,
)


def serve(role: tf_config.ClusterRole) -> NoReturn:
    """Runs the server of a worker or ps until the chief has left.

    In a local cluster until SIGTERM, with which the launcher ends it.

    Args:
      role: who this process is.

    Raises:
      ConfigError: the role is not one that serves, or its port is taken.
      AmstfError: the op library does not load.
    """
    if role.type not in ("worker", "ps"):
        raise ConfigError(
            f"launch.server runs tasks of type worker or ps, TF_CONFIG says {role.name}; "
            "start the chief with python -m launch.train"
        )
    signal.signal(signal.SIGTERM, _end)
    tf_config.check_port_is_free(role)
    # TensorFlow comes last: it takes seconds, and a wrong TF_CONFIG should be said at once.
    os.environ.setdefault("GRPC_FAIL_FAST", "use_caller")
    import tensorflow as tf

    from amstf import ops, remote_files

    # A worker reads records, and a server writes its part of a checkpoint, where the chief says.
    remote_files.load_file_systems()
    try:
        # Before the server exists: it refuses functions with ops that came later.
        ops.load_library()
    except ImportError as error:
        raise AmstfError(str(error)) from error
    cluster = tf_config.without_evaluator(role).cluster
    server = tf.distribute.Server(
        tf.train.ClusterSpec({name: list(tasks) for name, tasks in cluster.items()}),
        job_name=role.type,
        task_index=role.index,
        protocol="grpc",
        config=_session_config(len(cluster["worker"]), _INTRA_OP_THREADS.value),
    )
    print(f"ready: {role.name} at {role.address}, pid {os.getpid()}", flush=True)
    # Not server.join(): it waits in C++, where Python never gets to handle a signal.
    while child.is_in_local_cluster():
        signal.pause()
    code = chief_link.follow(role, _CHIEF_TIMEOUT_S.value, lambda why: print(why, flush=True))
    del server  # Until here: TensorFlow ends a server that nobody refers to.
    os._exit(code)  # A server has no other end: its C++ threads cannot be joined.


def _session_config(num_workers: int, intra_op_threads: int):
    import tensorflow as tf

    config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=intra_op_threads)
    # A server must be able to hold one blocked op for every worker and still run another.
    if (os.cpu_count() or 1) < num_workers + 1:
        config.inter_op_parallelism_threads = num_workers + 1
    config.gpu_options.allow_growth = True
    return config


def _end(signum: int, frame: object) -> NoReturn:
    del signum, frame
    os.write(1, b"ended by SIGTERM\n")  # print() may have been interrupted by this very signal.
    # Not 0: a cluster manager that moves this task to another machine must start it again.
    os._exit(program.EXIT_TERMINATED)


def main(arguments: list[str]) -> int:
    """Serves the task that the environment names."""
    del arguments
    text = os.environ.get("TF_CONFIG")
    if not text:
        raise ConfigError(
            "TF_CONFIG is not set: put the cluster and this process's task in the environment; "
            "see python -m launch.server --help"
        )
    serve(tf_config.parse(text))


if __name__ == "__main__":
    program.run(main)
