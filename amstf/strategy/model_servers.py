"""The servers that hold images, as the layers of a program see them."""

from __future__ import annotations

import uuid
import weakref
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from amstf import ops
from amstf.config import NONE, SYNC, AmsConfig
from amstf.errors import ConfigError
from amstf.store import ImageStore
from amstf.strategy.replicas import EmbeddingReplicas
from amstf.strategy.rounds import Round, SyncRounds


class ModelServers:
    """What belongs to the cluster and not to one layer: configuration, rounds, replicas, counters.

    Args:
        config: The configuration of the strategy.
        num_servers: Parameter servers of the cluster.
        num_workers: Workers of the cluster (W).

    Attributes:
        config: The configuration of the strategy.
        rounds: The synchronous rounds; None unless `config.merge` is "sync".

    Raises:
        ConfigError: If `config` names a server that the cluster lacks.
    """

    def __init__(self, config: AmsConfig, num_servers: int, num_workers: int = 1) -> None:
        self.config = config
        self._num_servers = num_servers
        self._num_workers = num_workers
        # Names of what this program keeps on the servers: another program's is another's.
        self._program = uuid.uuid4().hex[:16]
        self.rounds = (
            SyncRounds(self._program, num_workers, config.worker_timeout_ms)
            if config.merge == SYNC
            else None
        )
        self._gpus = {
            spec.task
            for device in tf.config.list_logical_devices("GPU")
            if (spec := tf.DeviceSpec.from_string(device.name)).job == "ps"
        }
        self._replicas: weakref.WeakKeyDictionary[Any, EmbeddingReplicas] = (
            weakref.WeakKeyDictionary()
        )
        self._num_meetings = 0
        self._groups: dict[tuple[int, ...], ServerGroup] = {}
        self.group()  # Says now if the configuration names a server that is not there.

    def group(self, indices: Sequence[int] | None = None) -> ServerGroup:
        """The servers that share one store.

        Args:
            indices: Of the parameter servers; None means those that the configuration names.

        Raises:
            ConfigError: If the cluster lacks one of them.
        """
        if indices is None:
            indices = self.config.image_servers or range(self._num_servers)
        else:
            # Says what is wrong with them.
            indices = AmsConfig(image_servers=tuple(indices)).image_servers or ()
        indices = tuple(indices)
        if max(indices) >= self._num_servers:
            raise ConfigError(
                f"image_servers names parameter server {max(indices)}, but the cluster has "
                f"{self._num_servers} (0 to {self._num_servers - 1})"
            )
        if indices not in self._groups:
            self._groups[indices] = ServerGroup(self, indices)
        return self._groups[indices]

    def compute_device(self, index: int) -> str:
        """Device that runs E on a parameter server: its GPU where it has one."""
        kind = "GPU" if index in self._gpus else "CPU"
        return f"/job:ps/replica:0/task:{index}/device:{kind}:0"

    def replicas(self, embedding_model: Any, width: int) -> EmbeddingReplicas:
        """The copies of an embedding model on servers, shared by all layers that use it.

        Args:
            embedding_model: E, built.
            width: Features of an image (F).
        """
        if embedding_model not in self._replicas:
            self._replicas[embedding_model] = EmbeddingReplicas(
                embedding_model,
                width,
                self.compute_device,
                self.config.sync_every,
                f"amstf_replica_{self._program}_{len(self._replicas)}",
            )
        return self._replicas[embedding_model]

    @property
    def merges(self) -> bool:
        """Whether a request may be answered together with another, by another's step."""
        return self.config.merge != NONE

    @property
    def may_skip_updates(self) -> bool:
        """Whether a step may end without a gradient for E."""
        return self.merges or self.config.sync_every > 1

    def current_round(self) -> Round | None:
        """The synchronous round of the step that is being traced, if it is in one."""
        return None if self.rounds is None else self.rounds.current()

    def is_embedding_weight(self, variable: tf.Variable) -> bool:
        """Whether a variable is the master copy of weights of an embedding model."""
        return any(replicas.holds(variable) for replicas in self._replicas.values())

    def counters(self, store: ImageStore | None = None) -> list[dict[str, int]]:
        """Reads what each server has done; callable from the chief at any time.

        Args:
            store: Of the stores, ask about this one; by default the sum over all that layers use.

        Returns:
            For each server that holds images, in the order of their indices, the counters, named as
            in `amstf.ops.COUNTER_NAMES` (stores) and `amstf.ops.MEETING_COUNTER_NAMES` (meetings).
        """
        totals = self.counters_by_index(store)
        return [totals[index] for index in sorted(totals)]

    def counters_by_index(self, store: ImageStore | None = None) -> dict[int, dict[str, int]]:
        """As `counters`, by the index of the parameter server."""
        totals: dict[int, dict[str, int]] = {}
        groups = [group for group in self._groups.values() if group.holds(store)]
        for group in groups or [self.group()]:
            for server, index in enumerate(group.indices):
                names = (*ops.COUNTER_NAMES, *ops.MEETING_COUNTER_NAMES)
                total = totals.setdefault(index, dict.fromkeys(names, 0))
                for name, value in group.counters(server, store).items():
                    total[name] += value
        return totals

    def named_counters(self) -> dict[str, dict[str, int]]:
        """As `counters`, by name, for people and plots: "ps-0", ..., their "sum", "rounds".

        "ids_embedded" is what E was run on.
        """
        per_server = self.counters_by_index()
        for counters in per_server.values():
            counters["ids_embedded"] = counters["ids_distinct"] - counters["ids_missing"]
        named = {f"ps-{index}": counters for index, counters in per_server.items()}
        named["sum"] = {
            name: sum(counters[name] for counters in per_server.values())
            for name in (*ops.COUNTER_NAMES, *ops.MEETING_COUNTER_NAMES, "ids_embedded")
        }
        if self.rounds is not None:
            named["rounds"] = self.rounds.counters()
        return named

    def new_meeting(self) -> str:
        """Name of a new meeting, for one AmsEmbedding."""
        self._num_meetings += 1
        return f"{self._program}_{self._num_meetings}"


class ServerGroup:
    """The servers that share one store, each with its buckets.

    Attributes:
        owner: The model servers of the cluster.
        indices: Index of each server in the job "ps"; position s in it is server s of S.
    """

    def __init__(self, owner: ModelServers, indices: tuple[int, ...]) -> None:
        self.owner = owner
        self.indices = indices
        self._stores: dict[tuple[str, ...], ImageStore] = {}
        self._meetings: list[str] = []

    def __len__(self) -> int:
        return len(self.indices)

    def holds(self, store: ImageStore | None = None) -> bool:
        """Whether a layer has opened this store here; None stands for any store."""
        return bool(self._stores) if store is None else tuple(store.paths) in self._stores

    def storage_device(self, server: int) -> str:
        """Device that reads the images of server s: its CPU, beside the mapped files."""
        return f"/job:ps/replica:0/task:{self.indices[server]}/device:CPU:0"

    def compute_device(self, server: int) -> str:
        """Device that runs E on server s: its GPU where it has one."""
        return self.owner.compute_device(self.indices[server])

    def open(self, store: ImageStore, server: int) -> tf.Tensor:
        """Handle of the share of the store that server s holds; call it on `storage_device`."""
        self._stores[tuple(store.paths)] = store
        return ops.image_store(
            store.files, store.width, tf.as_dtype(store.dtype), num_servers=len(self), server=server
        )

    def new_meeting(self) -> str:
        """Name of a new meeting, for one AmsEmbedding; see `meeting`."""
        self._meetings.append(self.owner.new_meeting())
        return self._meetings[-1]

    def meeting(self, name: str, server: int) -> tf.Tensor:
        """Handle of a meeting on server s; call it on `storage_device`."""
        config = self.owner.config
        return ops.meeting(
            f"{name}_{server}",
            merge=config.merge,
            num_workers=self.owner._num_workers,
            merge_wait_ms=config.merge_wait_ms,
            worker_timeout_ms=config.worker_timeout_ms,
        )

    def counters(self, server: int, store: ImageStore | None = None) -> dict[str, int]:
        """What server s has counted; see `ModelServers.counters`."""
        total = dict.fromkeys((*ops.COUNTER_NAMES, *ops.MEETING_COUNTER_NAMES), 0)
        with tf.device(self.storage_device(server)):
            for one in self._stores.values() if store is None else [store]:
                values = ops.image_store_counters(self.open(one, server)).numpy()
                _add(total, ops.COUNTER_NAMES, values)
            for name in self._meetings:
                values = ops.meeting_counters(self.meeting(name, server)).numpy()
                _add(total, ops.MEETING_COUNTER_NAMES, values)
        return total


def _add(total: dict[str, int], names: Sequence[str], values: Any) -> None:
    for name, value in zip(names, values, strict=True):
        total[name] += int(value)
