"""What only TensorFlow's private modules offer (2.17), each with the reason."""

from __future__ import annotations

import functools
import threading
from typing import Any

from tensorflow.python.eager import context, record
from tensorflow.python.framework import ops
from tensorflow.python.ops import lookup_ops, resource_variable_ops
from tensorflow.python.saved_model import registration
from tensorflow.python.trackable import autotrackable
from tf_keras.src.utils import data_utils

# Made directly, a variable goes where `tf.device` says. `tf.Variable` asks the strategy, which puts
# every variable on the CPU of a server of its own choice.
PlacedVariable = resource_variable_ops.ResourceVariable

# What tf.train.Checkpoint finds when it is an attribute of a layer. Not tf.Module: Keras would look
# for weights in it.
Trackable = autotrackable.AutoTrackable

# What fills a tf.lookup table; its subclasses are public, and it is not.
TableInitializer = lookup_ops.TableInitializerBase

# How an object writes and reads its part of a checkpoint itself.
register_checkpoint_saver = registration.register_checkpoint_saver


def unique_id(variable: Any) -> str:
    """What a variable is known by, also inside of a strategy's update of it."""
    return variable._unique_id


def outside_colocation() -> Any:
    """Context in which ops are no longer put beside the variable that is being updated."""
    return ops.colocate_with(None, ignore_existing=True)


def num_parameter_servers(strategy: Any) -> int:
    """How many servers a ParameterServerStrategy has; its `cluster_resolver` is None."""
    return strategy.extended._num_ps


def is_tape_recording() -> bool:
    """Whether a gradient may be asked of what is computed now."""
    return record.could_possibly_record()


def let_workers_be_independent(coordinator: Any) -> None:
    """Keeps a worker that hangs from stopping the others.

    The chief has a thread for each worker. After each step it waits for all that is pending in the
    executor that all threads share by default, and there it finds messages to other workers ("your
    result is no longer needed"): while one of them is suspended or unreachable, nobody trains. So
    each thread gets the executor of its worker for good, not only for the step.

    Args:
        coordinator: A ClusterCoordinator that has not scheduled anything yet.
    """
    for worker in coordinator._cluster.workers:
        worker._process_closure = functools.partial(
            _process_closure, worker, worker._process_closure, threading.local()
        )


def _process_closure(worker: Any, process: Any, thread: threading.local, closure: Any) -> None:
    if not hasattr(thread, "has_executor"):
        context.context().executor = worker.executor
        thread.has_executor = True
    process(closure)


def sharded_variable_of(variable: Any) -> Any:
    """The variable whose shard a variable is; None if it is no shard."""
    container = getattr(variable, "_sharded_container", None)
    return None if container is None else container()


def published_weights(application: Any, **options: Any) -> tuple[str, str, str | None]:
    """Tells which file holds the published weights of a Keras application.

    Keras has names and checksums in the bodies of its functions, and says them only to its
    download. So the application is built with a download that notes what it is asked for.

    Args:
        application: A function of `keras.applications`, such as VGG16.
        options: Its arguments.

    Returns:
        Name, address, and MD5 or SHA-256 of the file (None: Keras does not check this one).

    Raises:
        ValueError: If Keras has no published weights for these arguments.
    """

    def note(name: str, origin: str, *_: Any, **named: Any) -> Any:
        raise _WeightsWanted(name, origin, named.get("file_hash") or named.get("md5_hash"))

    download = data_utils.get_file
    data_utils.get_file = note
    try:
        application(weights="imagenet", **options)
    except _WeightsWanted as wanted:
        return wanted.args
    finally:
        data_utils.get_file = download
    raise ValueError(f"{application.__name__} asks for no published weights")


class _WeightsWanted(Exception):
    """Name, address and checksum that an application asked the download for."""
