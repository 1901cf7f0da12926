"""The strategy of a cluster whose parameter servers hold and embed images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tensorflow as tf

from amstf import ops
from amstf.config import AmsConfig
from amstf.errors import ConfigError

if TYPE_CHECKING:
    from amstf.store import ImageStore


class ModelServers:
    """The servers that hold images, as the layers of a program see them.

    Attributes:
        config: The configuration of the strategy.
        indices: Index of each image server in the job "ps"; position s in it is server s of S.
    """

    def __init__(self, config: AmsConfig, num_servers: int) -> None:
        self.config = config
        self.indices = config.image_servers or tuple(range(num_servers))
        if max(self.indices) >= num_servers:
            raise ConfigError(
                f"image_servers names parameter server {max(self.indices)}, but the cluster has "
                f"{num_servers} (0 to {num_servers - 1})"
            )
        self._stores: dict[tuple[str, ...], ImageStore] = {}
        self._gpus = {
            spec.task
            for device in tf.config.list_logical_devices("GPU")
            if (spec := tf.DeviceSpec.from_string(device.name)).job == "ps"
        }

    def __len__(self) -> int:
        return len(self.indices)

    def storage_device(self, server: int) -> str:
        """Device that reads the images of server s: its CPU, beside the mapped files."""
        return f"/job:ps/replica:0/task:{self.indices[server]}/device:CPU:0"

    def compute_device(self, server: int) -> str:
        """Device that runs E on server s: its GPU where it has one."""
        index = self.indices[server]
        kind = "GPU" if index in self._gpus else "CPU"
        return f"/job:ps/replica:0/task:{index}/device:{kind}:0"

    def open(self, store: ImageStore, server: int) -> tf.Tensor:
        """Handle of the share of the store that server s holds; call it on `storage_device`."""
        self._stores[tuple(store.paths)] = store
        return ops.image_store(
            store.files, store.width, tf.as_dtype(store.dtype), num_servers=len(self), server=server
        )

    def counters(self, store: ImageStore | None = None) -> list[dict[str, int]]:
        """Reads what each server has looked up; callable from the chief at any time.

        Args:
            store: The store to ask about; the sum over all stores that layers use by default.

        Returns:
            For each server s the counters, named as in `amstf.ops.COUNTER_NAMES`.
        """
        stores = list(self._stores.values()) if store is None else [store]
        counters = []
        for server in range(len(self)):
            total = dict.fromkeys(ops.COUNTER_NAMES, 0)
            with tf.device(self.storage_device(server)):
                for one in stores:
                    values = ops.image_store_counters(self.open(one, server)).numpy()
                    for name, value in zip(ops.COUNTER_NAMES, values, strict=True):
                        total[name] += int(value)
            counters.append(total)
        return counters


class AdvancedModelServerStrategy(tf.distribute.ParameterServerStrategy):
    """Parameter servers that also hold the images and run the embedding model on them.

    A `tf.distribute.ParameterServerStrategy` (arXiv 1711.06505 section 4, AMS) that knows which
    servers hold images. Layers made in its scope find it by themselves, so a program is the usual
    one.

    Args:
        cluster_resolver: Names the chief, the workers ("worker") and the parameter servers ("ps").
            Each worker and server must have called `amstf.ops.load_library()` before its
            `tf.distribute.Server` started; `python -m launch.server` does.
        config: The knobs.
        variable_partitioner: As in ParameterServerStrategy.

    Raises:
        ConfigError: If `config` names a server that the cluster lacks.

    Example (needs a running cluster):
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        strategy = amstf.AdvancedModelServerStrategy(resolver, config=amstf.AmsConfig())
        with strategy.scope():
            model = models.Dicm(schema, images=amstf.ImageStore.open("images.h5"))
            model.compile("adam", "binary_crossentropy")
        model.fit(...)

    Attributes:
        num_workers: Workers of the cluster (W).
        ams: The image servers: their devices and counters (`strategy.ams.counters()`).
    """

    def __init__(
        self,
        cluster_resolver: tf.distribute.cluster_resolver.ClusterResolver,
        config: AmsConfig | None = None,
        variable_partitioner: Any = None,
    ) -> None:
        ops.load_library()
        super().__init__(cluster_resolver, variable_partitioner=variable_partitioner)
        _keep_gradients_in_place(self)
        self.num_workers = cluster_resolver.cluster_spec().num_tasks("worker")
        num_servers = cluster_resolver.cluster_spec().num_tasks("ps")
        self.ams = ModelServers(config or AmsConfig(), num_servers)


def _keep_gradients_in_place(strategy: tf.distribute.ParameterServerStrategy) -> None:
    """Lets gradients go from where they are made to where they are applied.

    A Keras optimizer sums gradients over the replicas of a step. Under parameter servers there is
    one, and nothing to sum, but TensorFlow (2.17) copies each gradient to the worker for it: those
    of E would come from a server and go back to one.
    """
    extended = strategy.extended
    reduce_on_worker = extended._batch_reduce_to

    def batch_reduce_to(reduce_op: Any, pairs: Any, options: Any) -> Any:
        pairs = list(pairs)
        if any(isinstance(value, tf.distribute.DistributedValues) for value, _ in pairs):
            return reduce_on_worker(reduce_op, pairs, options)
        return [value for value, _ in pairs]

    extended._batch_reduce_to = batch_reduce_to
