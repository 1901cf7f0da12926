"""How a checkpoint holds dynamic tables: pages, written and read where the rows are.

TensorFlow calls these two functions for the tables that it finds in what is saved or restored; see
`register_checkpoint_saver` in its source. Why so: docs/design/dynamic_embedding.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from amstf import compat, ops
from amstf.dynamic.table import DynamicTable
from amstf.errors import ConfigError

_PARTS = ops.DynamicRows._fields
_PART_TYPES = (tf.int64, tf.float32, tf.int64, tf.string, tf.float32)


def _save(trackables: Mapping[str, DynamicTable], file_prefix: tf.Tensor) -> list[tf.Tensor]:
    """Writes the pages of tables; returns the prefixes of their files.

    Args:
        trackables: By the name in the checkpoint.
        file_prefix: For names of files.
    """
    with tf.init_scope():
        prefix = tf.get_static_value(file_prefix)
        if prefix is None:
            return []  # The saver of a SavedModel is being traced: it has no rows.
        files: list[tf.Tensor] = []
        for name, table in sorted(trackables.items()):
            first = len(files)
            for server, rows in table.pages():
                files.append(tf.constant(f"{prefix.decode()}-{len(files)}"))
                with table.on_server(server):
                    _write(files[-1], _page_names(name, len(files) - 1 - first), rows)
            clock = max(counters["clock"] for counters in table.counters_by_server())
            facts = [len(files) - first, clock, table.options.width]
            files.append(tf.constant(f"{prefix.decode()}-{len(files)}"))
            with table.on_server(0):
                _write(files[-1], [_facts_name(name)], [tf.constant(facts, tf.int64)])
    return files


def _restore(trackables: Mapping[str, DynamicTable], merged_prefix: tf.Tensor) -> None:
    """Reads tables, however many servers have written them.

    Args:
        trackables: By the name in the checkpoint.
        merged_prefix: The checkpoint.

    Raises:
        ConfigError: If the rows of the checkpoint are of another width.
    """
    with tf.init_scope():
        prefix = tf.get_static_value(merged_prefix)
        if prefix is None:
            return
        for name, table in trackables.items():
            (facts,) = _read(prefix, [_facts_name(name)], [tf.int64])
            num_pages, clock, width = facts.numpy().tolist()
            if width != table.options.width:
                raise ConfigError(
                    f"the checkpoint {prefix.decode()} has rows of {width} floats for {name}, "
                    f"which has a width of {table.options.width}; use the model that was saved"
                )
            table.clear(clock)
            for page in range(num_pages):
                for server in range(table.num_servers):
                    with table.on_server(server):
                        rows = _read(prefix, _page_names(name, page), _PART_TYPES)
                        table.take(server, ops.DynamicRows(*rows))


def _page_names(name: str, page: int) -> list[str]:
    return [f"{name}/page-{page:05d}/{part}" for part in _PARTS]


def _facts_name(name: str) -> str:
    return f"{name}/pages_clock_width"


def _write(prefix: tf.Tensor, names: Sequence[str], tensors: Sequence[tf.Tensor]) -> None:
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=list(names),
        shape_and_slices=[""] * len(names),
        tensors=list(tensors),
    )


def _read(prefix: Any, names: Sequence[str], types: Sequence[tf.DType]) -> list[tf.Tensor]:
    return tf.raw_ops.RestoreV2(
        prefix=prefix,
        tensor_names=list(names),
        shape_and_slices=[""] * len(names),
        dtypes=list(types),
    )


compat.register_checkpoint_saver(
    package="amstf",
    name="DynamicTable",
    predicate=lambda trackable: isinstance(trackable, DynamicTable),
    save_fn=_save,
    restore_fn=_restore,
)
