"""The chief of a cluster of several machines: rendezvous, training as a child, farewell.

This process holds no TensorFlow, so it keeps the chief's address while TensorFlow does not, and
lives on to tell the others when the training crashes or is killed. See docs/design/launch.md.
"""

import os
import sys
from collections.abc import Sequence

from launch import child, rendezvous, tf_config
from launch.chief_watch import ChiefWatch

_CHILD = "AMSTF_CHIEF_CHILD"
_GRACE = 30.0  # Seconds that the chief has to keep a checkpoint once it is interrupted.


def is_needed() -> bool:
    """Whether this process, a chief by TF_CONFIG, is to call `run` instead of training itself."""
    return not child.is_in_local_cluster() and _CHILD not in os.environ


def run(role: tf_config.ClusterRole, command: Sequence[str], connect_timeout: float) -> int:
    """Waits for the cluster, runs the chief, and tells workers and servers how it has ended.

    Args:
      role: the chief's.
      command: the program that trains; it gets this process's environment.
      connect_timeout: seconds to wait for workers and servers.

    Returns:
      The exit code of `command`; 128 + n if signal n ended it.

    Raises:
      ConfigError: the chief's port is taken.
      ClusterLostError: a worker or server was missing for `connect_timeout` seconds.
    """
    tf_config.check_port_is_free(role)
    rendezvous.gather(role, connect_timeout, _say)
    watch = ChiefWatch({}, say=_say, grace=_GRACE)
    with watch.forwarded_signals():
        code = watch.wait(child.spawn(command, environment={**os.environ, _CHILD: "1"}))
    rendezvous.farewell(role, code)
    return code


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
