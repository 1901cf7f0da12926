"""What is known of a step while it is traced."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import tensorflow as tf


def graph_among(graphs: Container[Any]) -> Any:
    """Returns the graph that is being traced, or the nearest around it, that is one of some.

    A branch of a `tf.cond`, a loop or a gradient has a graph of its own inside that of the step.

    Args:
        graphs: The graphs of steps.

    Returns:
        One of them; None if no step is being traced.
    """
    graph = tf.compat.v1.get_default_graph()
    while graph is not None and graph not in graphs:
        graph = getattr(graph, "outer_graph", None)
    return graph


def tensors_of(structure: Any) -> list[tf.Tensor]:
    """Returns the tensors of any structure, to wait for; what else is in it is left out."""
    leaves = tf.nest.flatten(structure, expand_composites=True)
    return [leaf for leaf in leaves if isinstance(leaf, tf.Tensor)]
