"""Whether a SavedModel is made of TensorFlow's own ops only, as a stock TF Serving needs it."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

import tensorflow as tf
from tensorflow.core.framework import graph_pb2
from tensorflow.core.protobuf import saved_model_pb2

from amstf.errors import ExportError

SAVED_MODEL_FILE = "saved_model.pb"


def custom_ops(saved_model: str | os.PathLike[str]) -> list[str]:
    """Lists the ops of a SavedModel that stock TensorFlow does not have.

    The names are compared with those that TensorFlow itself was built with, not with those
    that this process has: here, loading a library of custom ops has made them known.

    Args:
        saved_model: Directory of the SavedModel.

    Returns:
        Names of ops in the graph and in its functions, sorted.

    Raises:
        ExportError: If there is no SavedModel.
    """
    path = pathlib.Path(saved_model, SAVED_MODEL_FILE)
    try:
        content = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    except OSError as error:
        raise ExportError(f"{saved_model} holds no SavedModel: {error}") from error
    used = {op for meta_graph in content.meta_graphs for op in _ops(meta_graph.graph_def)}
    return sorted(op for op in used if not hasattr(tf.raw_ops, op))


def check_stock_ops(saved_model: str | os.PathLike[str]) -> None:
    """Refuses a SavedModel that a stock TF Serving could not load.

    Raises:
        ExportError: Naming the custom ops.
    """
    custom = custom_ops(saved_model)
    if custom:
        raise ExportError(
            f"{saved_model} holds ops that stock TensorFlow does not have: {', '.join(custom)}; "
            "a TF Serving could not load it. Trace the model while its image layers read a table "
            "(AmsEmbedding.table), as amstf.export does for the layers named in `images`"
        )


def _ops(graph: graph_pb2.GraphDef) -> Iterator[str]:
    functions = {function.signature.name for function in graph.library.function}
    for node in graph.node:
        yield node.op
    for function in graph.library.function:
        # A node may call a function by the function's name in the place of an op's.
        yield from (node.op for node in function.node_def if node.op not in functions)
