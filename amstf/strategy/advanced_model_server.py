"""The strategy: parameter servers that hold images, and what it changes of TensorFlow's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from amstf import compat, ops
from amstf.config import SYNC, AmsConfig
from amstf.strategy.coordinator import SchedulingCoordinator
from amstf.strategy.model_servers import ModelServers
from amstf.strategy.sharded_tables import split_tables
from amstf.strategy.worker_steps import WorkerSteps

# Names that Keras gives to the step counters of its optimizers, new and legacy.
_STEP_COUNTERS = ("iteration", "iter")


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
        variable_partitioner: As in ParameterServerStrategy, for all variables. By default large
            tables of ids are split and nothing else, as `config.min_shard_bytes` says.

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
        self.num_workers = cluster_resolver.cluster_spec().num_tasks("worker")
        num_servers = cluster_resolver.cluster_spec().num_tasks("ps")
        self.ams = ModelServers(config or AmsConfig(), num_servers, self.num_workers)
        self._worker_steps = WorkerSteps(self.num_workers)
        if variable_partitioner is None:
            split_tables(self, self.ams.config.min_shard_bytes, num_servers)
        _keep_gradients_in_place(self)
        _choose_updates(self)
        if self.ams.config.merge == SYNC:
            _count_rounds_as_steps(self)
        # A strategy has one coordinator, the first that is made for it.
        compat.let_workers_be_independent(SchedulingCoordinator(self))

    def run(
        self, fn: Callable[..., Any], args: Any = (), kwargs: Any = None, options: Any = None
    ) -> Any:
        """Runs a step on this worker; as in ParameterServerStrategy.

        A step that updates variables is counted (`worker_steps`), and under merge="sync" it takes
        part in the next round.
        """
        with self._worker_steps.step() as count:
            results = self._run_in_round(fn, args, kwargs, options)
            count(results)
        return results

    def worker_steps(self) -> np.ndarray:
        """Reads how many training steps each worker has done; callable at any time on the chief.

        A step is what `run` runs, so with steps_per_execution=n a function of n steps counts n
        times, as they are done. It is a training step if an optimizer updates variables in it: an
        evaluation does not count. It counts once its results, such as the loss, are there; when all
        steps that were scheduled are done (`fit` has ended), the counts add up to them. A step that
        is run again because its worker died counts for the worker that ends it, and for the dead
        one too if that had got as far as the results.

        Returns:
            Steps since this strategy was made, by index of the worker, int64 [W]. The counters are
            on the first parameter server, so a worker that is started again goes on counting.

        Raises:
            tf.errors.UnavailableError: If the server is lost.

        Example (needs a running cluster):
            model.fit(batches, steps_per_epoch=100)
            strategy.worker_steps()  # array([52, 48])
        """
        return self._worker_steps.counts()

    def latest_worker_steps(self) -> np.ndarray:
        """Reads when each worker did its latest training step, in steps; as `worker_steps`.

        When all goes well, the numbers of all workers are near the sum of `worker_steps()`. The one
        of a worker that hangs stays, while the others go on: at the end of `fit`, which waits for
        all steps, it tells for whom.

        Returns:
            How many steps all workers together had done with the latest of each, int64 [W]; 0 for a
            worker that has done none.

        Raises:
            tf.errors.UnavailableError: If the server is lost.
        """
        return self._worker_steps.latest()

    def _run_in_round(self, fn: Callable[..., Any], args: Any, kwargs: Any, options: Any) -> Any:
        rounds = self.ams.rounds
        if rounds is None:
            return super().run(fn, args, kwargs, options)

        def step(*args: Any, **kwargs: Any) -> Any:
            # Weights must be those that the last round left.
            with tf.control_dependencies([rounds.begin((args, kwargs))]):
                return fn(*args, **kwargs)

        try:
            return super().run(step, args, kwargs, options)
        finally:
            rounds.end()


def _keep_gradients_in_place(strategy: AdvancedModelServerStrategy) -> None:
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


def _choose_updates(strategy: AdvancedModelServerStrategy) -> None:
    """Makes an optimizer's update of a variable happen only in the steps that have one.

    That is: for E in the steps whose round ends with an exchange, for all variables in the step
    that leads a synchronous round, with the mean gradient of it.
    """
    extended, servers = strategy.extended, strategy.ams
    update_always = extended._update

    def update(variable: Any, fn: Any, args: Any, kwargs: Any, group: bool) -> Any:
        strategy._worker_steps.note_update()
        current = servers.current_round()
        is_embedding = servers.is_embedding_weight(variable)
        if not args or not (current or (is_embedding and servers.may_skip_updates)):
            return update_always(variable, fn, args, kwargs, group)
        with tf.device(variable.device):
            gradient = args[0]
            if is_embedding:
                is_due = ops.is_present(gradient, variable.shape.num_elements())
            else:
                assert servers.rounds is not None and current is not None
                gradient = servers.rounds.mean(gradient, variable)
                is_due = current.leads
                if not isinstance(gradient, tf.IndexedSlices):
                    # Empty for a leader that hung so long that its round went on without it.
                    is_due &= ops.is_present(gradient, variable.shape.num_elements())

            def apply() -> tf.Tensor:
                update_always(variable, fn, (_shaped(gradient, variable), *args[1:]), kwargs, group)
                return tf.constant(True)

            updated = tf.cond(is_due, apply, lambda: tf.constant(False))
        if current is not None:
            current.updates.append(updated)
        return updated

    extended._update = update


def _shaped(gradient: Any, variable: tf.Variable) -> Any:
    if isinstance(gradient, tf.IndexedSlices):
        return gradient
    return tf.reshape(gradient, variable.shape)


def _count_rounds_as_steps(strategy: AdvancedModelServerStrategy) -> None:
    """Makes the step counter of optimizers made in the strategy's scope count rounds.

    Each worker's step adds one to it, outside of any update: only the leader's may count.
    """
    extended, servers = strategy.extended, strategy.ams
    create_variable = extended._create_variable

    def create(next_creator: Any, **kwargs: Any) -> Any:
        variable = create_variable(next_creator, **kwargs)
        if kwargs.get("name") in _STEP_COUNTERS and variable.dtype == tf.int64:
            add_always = variable.assign_add

            def assign_add(delta: Any, *args: Any, **kwargs: Any) -> Any:
                current = servers.current_round()
                if current is None:
                    return add_always(delta, *args, **kwargs)
                # The learning rate of a schedule follows the counter, in every worker's step: it
                # must not move on before the round's updates have used it.
                with tf.control_dependencies(current.updates):
                    delta = tf.cast(delta, tf.int64) * tf.cast(current.leads, tf.int64)
                    return add_always(delta, *args, **kwargs)

            variable.assign_add = assign_add
        return variable

    extended._create_variable = create
