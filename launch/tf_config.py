"""TF_CONFIG: what a process of a cluster is told about the cluster and about its own role in it.

Pure functions, no TensorFlow: a wrong TF_CONFIG is refused before anything is started, with what
was got and the cure. Left to TensorFlow most of these end in a connect that hangs for minutes.
"""

import dataclasses
import json
import re
import socket
from collections.abc import Mapping, Sequence

from amstf import files
from amstf.errors import ConfigError

ROLES = ("chief", "worker", "ps", "evaluator")
_NEEDED = ("chief", "worker", "ps")
_EXAMPLE = (
    '{"cluster": {"chief": ["host:port"], "worker": ["host:port"], "ps": ["host:port"]}, '
    '"task": {"type": "worker", "index": 0}}'
)

Cluster = Mapping[str, tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class ClusterRole:
    """One process's place in a cluster.

    Attributes:
      cluster: the `host:port` of every task, by role: `{"worker": ("10.0.0.1:2222", ...), ...}`.
      type: the role of this process: chief, worker, ps or evaluator.
      index: which one of its role, from 0.
      address: its own `host:port`; empty for an evaluator that the cluster does not list.
    """

    cluster: Cluster
    type: str
    index: int
    address: str

    @property
    def name(self) -> str:
        """`worker 0`, as messages and logs call it."""
        return f"{self.type} {self.index}"

    @property
    def port(self) -> int | None:
        """The port it is to listen on; None for an evaluator that the cluster does not list."""
        return int(self.address.rpartition(":")[2]) if self.address else None


def parse(text: str) -> ClusterRole:
    """Reads and checks the text of TF_CONFIG.

    Args:
      text: JSON with `cluster` (role -> list of `host:port`) and `task` (`type`, `index`).

    Returns:
      The role, complete and consistent.

    Raises:
      ConfigError: it is not JSON, a role is missing or unknown, there is not exactly one chief, the
        index is out of range, an address is not `host:port` or is used twice.

    Example: `parse(os.environ["TF_CONFIG"]).name == "worker 0"`
    """
    try:
        content = files.parse_json(text)
    except ValueError as error:
        raise ConfigError(
            f"TF_CONFIG is not JSON ({error}): got {_short(text)}; wanted {_EXAMPLE}"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("cluster"), dict):
        raise ConfigError(f"TF_CONFIG has no cluster: got {_short(text)}; wanted {_EXAMPLE}")
    cluster = _check_cluster(content["cluster"])
    task = content.get("task")
    if not isinstance(task, dict) or "type" not in task:
        raise ConfigError(
            f"TF_CONFIG has no task: got {_short(task)}; add the role of this process, "
            'e.g. "task": {"type": "worker", "index": 0}'
        )
    kind, index = task["type"], task.get("index", 0)
    if kind not in ROLES:
        raise ConfigError(f"TF_CONFIG task type: got {kind!r}, wanted one of {', '.join(ROLES)}")
    return ClusterRole(cluster, kind, index, _own_address(cluster, kind, index))


def build(cluster: Mapping[str, Sequence[str]], role: str, index: int) -> str:
    """Returns the TF_CONFIG of one task as JSON; the reverse of `parse`.

    Example: `environ["TF_CONFIG"] = build(cluster, "worker", 1)`
    """
    lists = {name: list(addresses) for name, addresses in cluster.items()}
    return json.dumps({"cluster": lists, "task": {"type": role, "index": index}})


def without_evaluator(role: ClusterRole) -> ClusterRole:
    """Returns the role with a cluster that does not list evaluators.

    A chief whose cluster lists an evaluator waits for it without end (tensorflow#46169), so this
    comes before a TensorFlow resolver is made.
    """
    cluster = {name: tasks for name, tasks in role.cluster.items() if name != "evaluator"}
    return dataclasses.replace(role, cluster=cluster)


def check_port_is_free(role: ClusterRole) -> None:
    """Checks that nobody listens on the port of this process.

    gRPC shares ports (SO_REUSEPORT): two servers on one port both start, and each gets some of the
    connections. So this is asked before a server is made.

    Raises:
      ConfigError: the port is taken, or this user may not listen on it.
    """
    if role.port is None:
        return
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Without it a port that a process left a moment ago would count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", role.port))
        except OSError as error:
            raise ConfigError(
                f"port {role.port} of {role.name} is taken or not allowed ({error.strerror}): end "
                f"the process that listens on it (`ss -ltnp | grep {role.port}`) or give "
                f"{role.name} another port in TF_CONFIG, in every process of the cluster"
            ) from error


def _check_cluster(got: dict) -> Cluster:
    unknown = [name for name in got if name not in ROLES]
    if unknown:
        raise ConfigError(
            f"TF_CONFIG cluster: unknown role {unknown[0]!r}, wanted {', '.join(ROLES)}"
        )
    for name, addresses in got.items():
        if not isinstance(addresses, list):
            raise ConfigError(
                f"TF_CONFIG cluster {name}: got {_short(addresses)}, "
                'wanted a list of addresses, e.g. ["10.0.0.1:2222"]'
            )
    for name in _NEEDED:
        if not got.get(name):
            raise ConfigError(
                f"TF_CONFIG cluster names no {name}: got {', '.join(got) or 'nothing'}; "
                f'add "{name}": ["host:port"]'
            )
    if len(got["chief"]) != 1:
        raise ConfigError(
            f"TF_CONFIG cluster has {len(got['chief'])} chiefs ({', '.join(map(str, got['chief']))}"
            "); wanted exactly one"
        )
    users: dict[str, str] = {}
    for name, addresses in got.items():
        for index, address in enumerate(addresses):
            _check_address(address, f"{name} {index}")
            if address in users:
                raise ConfigError(
                    f"TF_CONFIG cluster: {users[address]} and {name} {index} have the same address "
                    f"{address}; give each task a port of its own"
                )
            users[address] = f"{name} {index}"
    return {name: tuple(addresses) for name, addresses in got.items()}


def _check_address(address: object, task: str) -> None:
    match = re.fullmatch(r"[^\s/]+:([0-9]{1,5})", address) if isinstance(address, str) else None
    if match is None or not 0 < int(match[1]) < 65536:
        raise ConfigError(
            f"TF_CONFIG address of {task}: got {address!r}, wanted host:port with a port from 1 "
            'to 65535, e.g. "10.0.0.1:2222"'
        )


def _own_address(cluster: Cluster, kind: str, index: object) -> str:
    addresses = cluster.get(kind, ())
    if not isinstance(index, int) or isinstance(index, bool) or index < 0:
        raise ConfigError(f"TF_CONFIG task index: got {index!r}, wanted a whole number from 0")
    if kind == "evaluator" and not addresses:
        return ""  # An evaluator is a side process: TensorFlow lets the cluster leave it out.
    if index >= len(addresses):
        raise ConfigError(
            f"TF_CONFIG task index: got {kind} {index}, but the cluster lists {len(addresses)} "
            f"of role {kind}, numbered from 0; use an index below {len(addresses)} or add its "
            "address"
        )
    return addresses[index]


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return repr(text) if len(text) <= 80 else repr(text[:77] + "...")
