"""Tables of ids without a vocabulary in a run: their limit, and what a report says of them."""

from __future__ import annotations

from typing import Any

import tf_keras as keras

from amstf import TableLimit
from amstf.errors import ConfigError
from amstf.layers import named_dynamic_embeddings

_MIB = 1 << 20
# Bytes of a row besides its floats: what is known of it, its place in the index.
_OVERHEAD = 32
# The weights and Adam's two slots, 4 bytes each.
_BYTES_PER_FLOAT = 12
# A table of 64 shards takes memory in pieces of 32 KiB.
_LEAST = 4 * _MIB


def limit(model: keras.Model, mebibytes: int) -> None:
    """Limits the memory that the tables of a model may take together on each server.

    Each table may have as many rows as the others, whatever their widths. One that is full gives a
    new id the row of another, not seen for long.

    Args:
        model: A model whose tables have no rows yet.
        mebibytes: The limit in MiB; 0 is none.

    Raises:
        ConfigError: If it is less than the tables need to begin with.
    """
    tables = [layer.table for layer in named_dynamic_embeddings(model).values()]
    if not mebibytes or not tables:
        return
    sizes = [_OVERHEAD + _BYTES_PER_FLOAT * table.options.width for table in tables]
    shares = [mebibytes * _MIB * size // sum(sizes) for size in sizes]
    if min(shares) < _LEAST:
        least = -(-_LEAST * sum(sizes) // (min(sizes) * _MIB))
        raise ConfigError(
            f"--dynamic_memory={mebibytes} is too little for {len(tables)} dynamic tables; give "
            f"them {least} MiB or more, or 0 for no limit"
        )
    for table, share in zip(tables, shares, strict=True):
        table.limit_to(TableLimit(bytes=share))


def counters(model: keras.Model) -> dict[str, dict[str, Any]]:
    """Returns name -> the limit in bytes, or None, and what each server counted, for a report."""
    return {
        name: {
            "limit_bytes": layer.options.limit.bytes,
            "servers": layer.table.counters_by_server(),
        }
        for name, layer in named_dynamic_embeddings(model).items()
    }


def sentence(tables: dict[str, dict[str, Any]]) -> str:
    """Returns the counters of all tables in a few words.

    Example:
        >>> server = {"rows": 1200, "bytes": 3_000_000, "ids_refused": 7, "rows_evicted": 0}
        >>> sentence({"table_user": {"servers": [server, server]}})
        'dynamic tables: 2,400 rows in 1 table, 6.0 MB; 0 rows evicted, 14 ids refused'
    """
    each = [server for table in tables.values() for server in table["servers"]]
    rows, size, evicted, refused = (
        sum(server[name] for server in each)
        for name in ("rows", "bytes", "rows_evicted", "ids_refused")
    )
    return (
        f"dynamic tables: {rows:,} rows in {len(tables)} table{'s' if len(tables) > 1 else ''}, "
        f"{size / 1e6:,.1f} MB; {evicted:,} rows evicted, {refused:,} ids refused"
    )
