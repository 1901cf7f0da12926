"""What only TensorFlow's private modules offer (2.17), each with the reason."""

from __future__ import annotations

from tensorflow.python.eager import record
from tensorflow.python.ops import resource_variable_ops

# Made directly, a variable goes where `tf.device` says. `tf.Variable` asks the strategy, which puts
# every variable on the CPU of a server of its own choice.
PlacedVariable = resource_variable_ops.ResourceVariable


def is_tape_recording() -> bool:
    """Whether a gradient may be asked of what is computed now."""
    return record.could_possibly_record()
