"""The rows of a dynamic table at one moment, as stock TensorFlow ops read them: for an export."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from amstf import compat
from amstf.dynamic.options import TableOptions
from amstf.dynamic.table import DynamicTable
from amstf.errors import ExportError

_NO_ID = -1  # Has a row of zeros in each table, so that none is empty.
_UNKNOWN = -1  # The number of no row.


class StaticRows:
    """Ids and rows as two variables, and a `tf.lookup.StaticHashTable` from id to row number.

    What is traced with it holds stock ops only. The hash table is filled from the variable when a
    SavedModel is loaded. A row counts only if its id is the one that was asked for, so that a
    request that comes between the assignments of a delta does not get another id's row.

    Args:
        table: Its rows are copied, without slots; wherever they are, they come to this process.
        name: Of the variables, "NAME/dynamic_ids" and "NAME/dynamic_rows".

    Raises:
        ExportError: If ids without a row have initial values that differ from id to id.

    Attributes:
        ids: int64 [n + 1], ascending; -1, no id, is one of them, and its row is zeros.
        rows: float32 [n + 1, D].
        index: Id -> place in `ids`.
        unknown: What an id without a row is embedded as, float32 [D].

    Example:
        >>> from amstf.dynamic import TableOptions
        >>> table = DynamicTable(TableOptions(width=2, initializer="ones"))
        >>> _ = table.lookup(tf.constant([9, 7], tf.int64), training=True)
        >>> rows = StaticRows(table, "items")
        >>> rows.ids.numpy().tolist(), rows.lookup(tf.constant([7, 8], tf.int64)).numpy().tolist()
        ([-1, 7, 9], [[1.0, 1.0], [0.0, 0.0]])
    """

    def __init__(self, table: DynamicTable, name: str) -> None:
        self.unknown = _unknown_row(table.options, name)
        ids, rows = _sorted_rows(table)
        # Of no fixed length, so that a delta (amstf.delta) may add rows to a loaded export.
        self.ids, self.rows = (
            tf.Variable(values, trainable=False, name=f"{name}/{part}",
                        shape=[None, *values.shape[1:]])
            for part, values in (("dynamic_ids", ids), ("dynamic_rows", rows))
        )  # fmt: skip
        self.index = index_of(self.ids)

    def __len__(self) -> int:
        """Ids that have a row."""
        return len(self.ids.numpy()) - 1

    def lookup(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns the rows [n, D] of ids, int64 [n]; of those without one `unknown`."""
        places = self.index.lookup(ids)
        # No less than 0, and no place beyond the end of rows that a delta has made fewer.
        inside = tf.clip_by_value(places, 0, tf.size(self.ids, tf.int64) - 1)
        found = tf.equal(tf.gather(self.ids, inside), ids)
        return tf.where(found[:, tf.newaxis], tf.gather(self.rows, inside), self.unknown)


def index_of(ids: tf.Variable) -> tf.lookup.StaticHashTable:
    """Makes the table from id to place of a variable of ids, of what it holds when it is loaded."""
    return tf.lookup.StaticHashTable(_FromVariable(ids), _UNKNOWN)


class _FromVariable(compat.TableInitializer):
    # TensorFlow's own initializer makes its keys a constant, and a graph ends at 2 GiB.

    def __init__(self, ids: tf.Variable) -> None:
        super().__init__(tf.int64, tf.int64)
        self._ids = ids

    def initialize(self, table: Any) -> tf.Operation:
        ids = self._ids.read_value()
        return tf.raw_ops.InitializeTableV2(
            table_handle=table.resource_handle, keys=ids, values=tf.range(tf.size(ids, tf.int64))
        )


def _unknown_row(options: TableOptions, name: str) -> tf.Tensor:
    value = 0.0
    if options.without_row == "initial":
        attributes = options.attributes()
        if attributes["initializer"] != "constant":
            raise ExportError(
                f"{name} embeds ids without a row by their initial values, which differ from id to "
                "id, and stock ops cannot make them; use without_row='zeros', or a constant "
                "initializer"
            )
        (value,) = attributes["initializer_values"]
    return tf.fill([options.width], tf.constant(value, tf.float32))


def _sorted_rows(table: DynamicTable) -> tuple[np.ndarray, np.ndarray]:
    width = table.options.width
    ids, rows = [np.array([_NO_ID], np.int64)], [np.zeros([1, width], np.float32)]
    for _, page in table.pages():
        ids.append(page.ids.numpy())
        rows.append(page.values.numpy()[:, :width])
    all_ids = np.concatenate(ids)
    order = np.argsort(all_ids)
    return all_ids[order], np.concatenate(rows)[order]
