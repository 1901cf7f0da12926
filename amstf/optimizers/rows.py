"""Rows of dynamic tables in the optimizers: their gradients come for the anchor of the table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from amstf.dynamic import table_of


def updates_rows(
    optimizer: Any, gradient: Any, variable: tf.Variable, rule: str, settings: Sequence[Any]
) -> bool:
    """Updates the rows of a dynamic table, if a variable is the anchor of one.

    Args:
        optimizer: A Keras optimizer; its step is that of the update.
        gradient: Of the variable: of an anchor, rows and their ids.
        variable: Any variable.
        rule: Name of the optimizer for tables.
        settings: Its settings; see `amstf.ops.dynamic_apply`.

    Returns:
        Whether the variable is an anchor; otherwise nothing has been done.
    """
    table = table_of(variable)
    if table is None:
        return False
    assert isinstance(gradient, tf.IndexedSlices), "an anchor is used in lookups only"
    table.apply(gradient, rule, settings, optimizer.iterations + 1)
    return True
