"""What only TensorFlow's private modules offer (2.17), each with the reason."""

from __future__ import annotations

from typing import Any

from tensorflow.python.eager import record
from tensorflow.python.ops import resource_variable_ops

# Made directly, a variable goes where `tf.device` says. `tf.Variable` asks the strategy, which puts
# every variable on the CPU of a server of its own choice.
PlacedVariable = resource_variable_ops.ResourceVariable


def is_tape_recording() -> bool:
    """Whether a gradient may be asked of what is computed now."""
    return record.could_possibly_record()


def sharded_variable_of(variable: Any) -> Any:
    """The variable whose shard a variable is; None if it is no shard."""
    container = getattr(variable, "_sharded_container", None)
    return None if container is None else container()
