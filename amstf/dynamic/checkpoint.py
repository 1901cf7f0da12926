"""How a checkpoint holds dynamic tables: pages, written and read where the rows are.

TensorFlow calls these two functions for the tables that it finds in what is saved or restored; see
`register_checkpoint_saver` in its source. Why so: docs/design/dynamic_embedding.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from amstf import compat, ops
from amstf.dynamic.table import DynamicTable
from amstf.errors import ConfigError

UNFINISHED_FILES = "*-amstf.DynamicTable-*"
"""Beside checkpoints: files of one that was never complete, or is being written now."""

_PARTS = ops.DynamicRows._fields
_PART_TYPES = (tf.int64, tf.float32, tf.int64, tf.string, tf.float32)
_NO_ID = -1


class _Checkpoint(NamedTuple):
    """What one checkpoint says of a table.

    Attributes:
        prefix: Path of the checkpoint.
        num_pages: Pages of rows: all, or of an increment those that were touched since its parent.
        clock: Of the table.
        width: Floats of a row.
        num_live: Lists of the ids that have a row; 0: none died since the parent.
    """

    prefix: str
    num_pages: int
    clock: int
    width: int
    num_live: int


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

        def write(parts: Mapping[str, Any]) -> None:
            files.append(tf.constant(f"{prefix.decode()}-{len(files)}"))
            tf.raw_ops.SaveV2(
                prefix=files[-1],
                tensor_names=list(parts),
                shape_and_slices=[""] * len(parts),
                tensors=list(parts.values()),
            )

        for name, table in sorted(trackables.items()):
            _save_table(name, table, write)
    return files


def _save_table(name: str, table: DynamicTable, write: Callable[[Mapping[str, Any]], None]) -> None:
    """Writes the pages of a table, each on its server, and then what there is to know of them."""
    before, counters = table.base, table.counters_by_server()
    has_deaths = before is not None and before.has_deaths(counters)
    num_pages = num_live = 0
    for server, rows in table.pages():
        parts: dict[str, Any] = {}  # One file: there are enough of them.
        with table.on_server(server):
            if has_deaths:
                parts[_live_name(name, num_live)] = rows.ids
                num_live += 1
            if before is not None:
                rows = _touched(rows, before.clocks[server])
            if before is None or len(rows.ids):
                parts |= dict(zip(_page_names(name, num_pages), rows, strict=True))
                num_pages += 1
            if parts:
                write(parts)
    num_filters = 0
    if before is None and table.options.admission.after > 1:
        num_filters = table.num_servers
        for server in range(num_filters):
            with table.on_server(server) as handle:
                write({_filter_name(name, server): ops.dynamic_filter(handle)})
    clock = max(counted["clock"] for counted in counters)
    facts = [num_pages, clock, table.options.width]
    with table.on_server(0):
        parts = {}
        if table.saving is not None:
            parts[_token_name(name)] = tf.constant(table.saving.token)
        if num_filters:
            parts[_num_filters_name(name)] = tf.constant(num_filters, tf.int64)
        if before is None:
            parts[_facts_name(name)] = tf.constant(facts, tf.int64)
        else:
            # By other names, so that no earlier version takes it for a full one.
            said = tf.constant([*facts, num_live], tf.int64)
            parent = tf.constant([before.checkpoint, before.token])
            parts |= dict(zip(_increment_names(name), (said, parent), strict=True))
        write(parts)


def _restore(trackables: Mapping[str, DynamicTable], merged_prefix: tf.Tensor) -> None:
    """Reads tables, however many servers have written them.

    Args:
        trackables: By the name in the checkpoint.
        merged_prefix: The checkpoint; of an increment all that it adds to are read too.

    Raises:
        ConfigError: If the rows of the checkpoint are of another width.
    """
    with tf.init_scope():
        prefix = tf.get_static_value(merged_prefix)
        if prefix is None:
            return
        for name, table in trackables.items():
            newest_first = list(_chain(prefix.decode(), name))
            if (width := newest_first[0].width) != table.options.width:
                raise ConfigError(
                    f"the checkpoint {prefix.decode()} has rows of {width} floats for {name}, "
                    f"which has a width of {table.options.width}; use the model that was saved"
                )
            table.clear(newest_first[0].clock)
            for server in range(table.num_servers):
                with table.on_server(server):
                    _restore_server(name, table, server, newest_first[::-1])


def _restore_server(
    name: str, table: DynamicTable, server: int, chain: Sequence[_Checkpoint]
) -> None:
    """Reads the rows of one server from a full checkpoint and the increments that follow it."""
    living = [_living(name, table, server, increment) for increment in chain[1:]]
    for k, checkpoint in enumerate(chain):
        for page in range(checkpoint.num_pages):
            rows = ops.DynamicRows(*_read(checkpoint.prefix, _page_names(name, page), _PART_TYPES))
            if not table.restores_slots:
                weights = rows.values[:, : table.options.width]
                rows = rows._replace(values=weights, rule=tf.constant(""))
            # A row that died later comes no more; if its id has another now, that was touched.
            for ids in living[k:]:
                if ids is not None:
                    rows = _only(rows, _is_among(rows.ids, ids))
            table.take(server, rows)
    if table.options.admission.after > 1:
        _restore_filter(name, table, server, chain[0].prefix)


def _restore_filter(name: str, table: DynamicTable, server: int, prefix: str) -> None:
    """Reads how often ids without a row were seen; they begin again if filters are of another size.

    Args:
        name: Of the table in the checkpoint.
        table: The table.
        server: The server to do it on.
        prefix: Path of a full checkpoint.
    """
    try:
        (num_filters,) = _read(prefix, [_num_filters_name(name)], [tf.int64])
    except tf.errors.NotFoundError:
        return
    # With as many servers as have written them each has the ids that it had. With others these may
    # come from each, and were counted at the same place of its filter.
    same = int(num_filters) == table.num_servers
    with table.on_server(server) as handle:
        size = tf.size(ops.dynamic_filter(handle))
        for part in [server] if same else range(int(num_filters)):
            (counters,) = _read(prefix, [_filter_name(name, part)], [tf.uint8])
            if tf.size(counters) != size:
                return
            ops.dynamic_merge_filter(handle, counters)


def _chain(prefix: str, name: str) -> Iterator[_Checkpoint]:
    """Yields what a checkpoint says of a table, and then each that it adds to, to the full one."""
    token = ""
    while True:
        if token and _read(prefix, [_token_name(name)], [tf.string])[0] != token:
            raise tf.errors.DataLossError(None, None, f"{prefix} is not the one it adds to")
        try:
            facts, said = _read(prefix, _increment_names(name), [tf.int64, tf.string])
            parent, token = (part.decode() for part in said.numpy())
        except tf.errors.NotFoundError:
            (facts,), parent = _read(prefix, [_facts_name(name)], [tf.int64]), ""
            facts = tf.concat([facts, [0]], 0)
        num_pages, clock, width, num_live = facts.numpy().tolist()
        yield _Checkpoint(prefix, num_pages, clock, width, num_live)
        if not parent:
            return
        prefix = os.path.join(os.path.dirname(prefix), parent)


def _living(
    name: str, table: DynamicTable, server: int, increment: _Checkpoint
) -> tf.Tensor | None:
    """The ids of a server that had a row, ascending, -1 among them; None if no row had died."""
    if not increment.num_live:
        return None
    lists = [tf.constant([_NO_ID], tf.int64)]
    for k in range(increment.num_live):
        (ids,) = _read(increment.prefix, [_live_name(name, k)], [tf.int64])
        lists.append(tf.boolean_mask(ids, table.owns(server, ids)))
    return tf.sort(tf.concat(lists, 0))


def _is_among(ids: tf.Tensor, ascending: tf.Tensor) -> tf.Tensor:
    places = tf.minimum(tf.searchsorted(ascending, ids), tf.size(ascending) - 1)
    return tf.equal(tf.gather(ascending, places), ids)


def _touched(rows: ops.DynamicRows, clock: int) -> ops.DynamicRows:
    """Those that were seen in training after a step; an update comes after its lookup."""
    return _only(rows, rows.seen[:, 0] > clock)


def _only(rows: ops.DynamicRows, mask: tf.Tensor) -> ops.DynamicRows:
    ids, values, seen = (tf.boolean_mask(part, mask) for part in rows[:3])
    return rows._replace(ids=ids, values=values, seen=seen)


def _page_names(name: str, page: int) -> list[str]:
    return [f"{name}/page-{page:05d}/{part}" for part in _PARTS]


def _live_name(name: str, number: int) -> str:
    return f"{name}/live-{number:05d}"


def _facts_name(name: str) -> str:
    return f"{name}/pages_clock_width"


def _filter_name(name: str, server: int) -> str:
    return f"{name}/filter-{server:05d}"


def _num_filters_name(name: str) -> str:
    return f"{name}/num_filters"


def _token_name(name: str) -> str:
    return f"{name}/token"


def _increment_names(name: str) -> list[str]:
    return [f"{name}/increment_pages_clock_width_live", f"{name}/increment_parent"]


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
